import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))  # the headless browser of the report's tests
