"""Beds: small worlds in which claims are tried, from exact to words and control."""
