import numpy as np
from common import topk

PERMUTES = ["T", "F"]
SPLITS = ["T"]


def reference(a, d):
    code = np.zeros((d["T"], d["F"]))
    for t, x in enumerate(a["x"]):
        z = x @ a["w"] + a["b"]
        kept = topk(z, d["K"])
        code[t, kept] = z[kept]
    return {"y": code @ a["w"].T + a["b2"], "code": code}
