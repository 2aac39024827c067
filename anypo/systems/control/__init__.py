"""Control: methods for Gymnasium environments."""
