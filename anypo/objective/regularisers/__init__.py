"""Regularisers: further terms of the loss."""
