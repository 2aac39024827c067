"""Language policies: causal models, their chat formats, critics and folders."""
