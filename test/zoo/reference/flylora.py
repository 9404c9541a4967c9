import numpy as np
from common import topk

PERMUTES = ["T"]
SPLITS = ["T"]
ALPHA = 24.0


def make_inputs(rng, d):
    index = np.stack([rng.permutation(d["D"])[: d["P"]] for _ in range(d["R"])])
    return {"a_idx": index, "bias": rng.normal(0, 0.2, d["R"])}


def reference(a, d):
    y, routing = a["x"] @ a["w0"], np.zeros((d["T"], d["R"]))
    for t, x in enumerate(a["x"]):
        z = np.array([x[a["a_idx"][r]] @ a["a_val"][r] for r in range(d["R"])])
        for r in topk(np.abs(z + a["bias"]), d["K"]):
            routing[t, r] = ALPHA / d["R"] * z[r]
            y[t] += routing[t, r] * a["b"][r]
    return {"y": y, "routing": routing}
