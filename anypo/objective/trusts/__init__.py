"""Trust regions: what is maximised per decision, given the log ratio and the advantage."""
