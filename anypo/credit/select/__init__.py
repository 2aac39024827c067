"""Selection: which rollouts and which decisions are trained on."""
