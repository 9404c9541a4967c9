import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["T", "E", "M"]
SPLITS = ["T"]
EPS = 0.01


def make_inputs(rng, d):
    return {"drop": (rng.random((d["M"], d["T"], d["D"])) < 0.8) / 0.8}


def reference(a, d):
    y, routing, score = np.zeros((d["T"], d["D"])), np.zeros((d["T"], d["E"])), np.zeros((d["T"], d["E"]))
    for t, x in enumerate(a["x"]):
        z = np.array([(x * a["drop"][m, t]) @ a["wr"] for m in range(d["M"])])
        score[t] = z.mean(axis=0) / np.sqrt(z.var(axis=0) + EPS)
        chosen = topk(score[t], d["K"])
        routing[t, chosen] = softmax(score[t, chosen])
        h, mixed = gelu(x @ a["w1"]) * (x @ a["w2"]), 0
        for e in chosen:
            mixed = mixed + routing[t, e] * ((h @ a["a"][e]) * h + h @ a["b"][e])
        y[t] = mixed @ a["wo"]
    return {"y": y, "routing": routing, "score": score}
