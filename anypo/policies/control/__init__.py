"""Control policies: small networks over observations."""
