import numpy as np
from common import gelu, softmax

PERMUTES = ["T"]


def reference(a, d):
    x, phi = a["x"], a["phi"]
    xn = x / np.sqrt(np.sum(x * x, axis=1, keepdims=True) + 1e-6)
    pn = a["scale"][0] * phi / np.sqrt(np.sum(phi * phi, axis=0, keepdims=True) + 1e-6)
    logits = xn @ pn
    dispatch, combine = softmax(logits, axis=0), softmax(logits, axis=1)
    slots = dispatch.T @ x
    out = np.zeros((d["S"], d["D"]))
    for s in range(d["S"]):
        e = s // d["P"]
        out[s] = gelu(slots[s] @ a["w1"][e]) @ a["w2"][e]
    return {"y": combine @ out, "dispatch": dispatch, "combine": combine}
