import numpy as np
from common import at_least, softmax, swiglu, topk

PERMUTES = ["T", "E"]
SPLITS = ["T"]


def make_inputs(rng, d):
    return {"modality": rng.integers(0, 2, d["T"]), "alpha": rng.uniform(0.5, 1.5, d["L"]), "tau": rng.uniform(0.2, 0.4, d["NM"])}


def reference(a, d):
    y, routing = a["x"].copy(), np.zeros((d["L"], d["T"], d["E"]))
    kept = np.zeros((d["L"], d["T"]), int)
    for l in range(d["L"]):
        for t, v in enumerate(y.copy()):
            p = softmax(v @ a["wr"][l])
            chosen = topk(p, d["K"])
            for e in chosen:
                g = p[e] / p[chosen].sum()
                if at_least(a["alpha"][l] * g, a["tau"][a["modality"][t]]):
                    routing[l, t, e] = g
                    kept[l, t] += 1
                    y[t] += g * swiglu(v, a["wg"][l, e], a["wu"][l, e], a["wd"][l, e])
    return {"y": y, "routing": routing, "kept": kept}
