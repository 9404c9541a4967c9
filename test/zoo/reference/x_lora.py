import numpy as np
from common import relu, silu, softmax

PERMUTES = ["T"]
SPLITS = ["T"]
SCALE = 1.5


def reference(a, d):
    y, lam = a["x"].copy(), np.zeros((d["T"], d["L"], d["NA"]))
    for t, x in enumerate(a["x"]):
        h = x
        for l in range(d["L"]):
            h = h + silu(h @ a["w"][l])
        u = relu(h @ a["s1"] + a["c1"]) @ a["s2"] + a["c2"]
        lam[t] = softmax(u.reshape(d["L"], d["NA"]), axis=1)
        for l in range(d["L"]):
            lora = sum(lam[t, l, i] * ((y[t] @ a["a"][l, i]) @ a["b"][l, i]) for i in range(d["NA"]))
            y[t] = y[t] + silu(y[t] @ a["w"][l] + SCALE * lora)
    return {"y": y, "lam": lam}
