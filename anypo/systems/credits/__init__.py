"""Credits: methods that change how rewards become advantages."""
