"""Updates of the whole parameter vector, without an optimiser: natural and recursive gradients, evolution."""
