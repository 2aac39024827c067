"""Claims of `anypo.systems.distillation`."""
