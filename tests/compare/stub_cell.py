"""A stand-in for a cell: writes a made-up record at once, so that plans, resuming and failures can be tested without a model.

Environment: STUB_LOG: file to which the key of every cell that runs is appended. STUB_FAIL: label that fails. STUB_SLOW:
label that waits for ever after its first word.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from made_up import SKILL, record

spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
cell = spec["cell"]
label = cell["contender"]["label"]
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(f"{label} {cell['seed']} {spec['init']}\n")
print(json.dumps({"share": 0.5, "score": 0.3, "unit": "accuracy"}), flush=True)
if label == os.environ.get("STUB_FAIL"):
    print("anypo: the loss is not finite", file=sys.stderr)
    sys.exit(2)
if label == os.environ.get("STUB_SLOW"):
    time.sleep(600)
gain, speed = SKILL.get(label, (0.1 + 0.01 * (sum(map(ord, label)) % 13), 4.0))
factors = cell["contender"]["factors"]
found = record(label, cell["seed"], gain, speed, cell["task"], **{k.replace(".", "_"): v for k, v in factors.items()})
found["factors"] = factors
out.write_text(json.dumps(found | {"code": spec["code"]}))
