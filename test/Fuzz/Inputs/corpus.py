"""corpus.py FOLDER: small files of every kind that the readers take, for the fuzz targets to begin with."""
import os
import shutil
import sys

import numpy as np
import onnx
import onnx.parser
from safetensors.numpy import save_file

source = os.environ["MOE_SOURCE"]
sys.path.insert(0, os.path.join(source, "test/Import/Inputs"))
import contrib_ops  # noqa: E402

folder = sys.argv[1]
for kind in ("onnx", "files"):
    shutil.rmtree(os.path.join(folder, kind), ignore_errors=True)
    os.makedirs(os.path.join(folder, kind))
seeds = [case.model for case in contrib_ops.cases() if case.name.startswith(("if", "loop", "skip", "gqa_rotary", "grouped_b"))]
# A function that calls itself, and one whose calls double at every level.
seeds.append(onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 17, "f" : 1]>
  g (float[N] x) => (float[N] y) { y = f.again (x) }
  <domain: "f", opset_import: ["f" : 1]> again (a) => (b) { b = f.again (a) }"""))
levels = "".join(f'<domain: "f", opset_import: ["f" : 1, "" : 17]> f{i} (a) => (c) {{ b = f.f{i + 1} (a) c = f.f{i + 1} (b) }}\n'
                 for i in range(4))
seeds.append(onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 17, "f" : 1]>
  g (float[N] x) => (float[N] y) {{ y = f.f0 (x) }}
  {levels}<domain: "f", opset_import: ["" : 17]> f4 (a) => (b) {{ b = Relu (a) }}"""))
for i, model in enumerate(seeds):
    open(os.path.join(folder, "onnx", f"{i:02}"), "wb").write(model.SerializeToString())
cases = os.path.join(source, "test/models/cases")
for name in sorted(os.listdir(cases))[:40]:
    path = os.path.join(cases, name, "model.onnx")
    if os.path.exists(path) and os.path.getsize(path) < 20000:
        shutil.copy(path, os.path.join(folder, "onnx", name))
place = os.path.join(folder, "files")
save_file({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.uint8)}, os.path.join(place, "two.safetensors"),
          metadata={"format": "np"})
for dtype in ("f4", "i8", "?"):
    np.save(os.path.join(place, f"array_{np.dtype(dtype).name}.npy"), np.zeros((2, 2), dtype))
open(os.path.join(place, "trailer"), "wb").write(b"\x7fELF" + bytes(60) + b"MOEMODUL" + bytes(56))
if len(sys.argv) > 2:
    shutil.copy(sys.argv[2], os.path.join(place, "module"))
