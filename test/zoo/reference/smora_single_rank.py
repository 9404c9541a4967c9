import numpy as np
from common import softmax, topk

PERMUTES = ["T"]
SPLITS = ["T"]


def reference(a, d):
    routing, block = np.zeros((d["T"], d["R"])), np.zeros((d["T"], d["NL"]))
    y, y_block = a["x"] @ a["w0"], a["x"] @ a["w0"]
    for t, x in enumerate(a["x"]):
        s = softmax(x @ a["wg"])
        chosen = topk(s + a["bias"], d["K"])
        routing[t, chosen] = s[chosen]
        sb = softmax(x @ a["wgb"])
        kept = topk(sb, d["KL"])
        block[t, kept] = sb[kept] / sb[kept].sum()
        for r in range(d["R"]):
            part = (x @ a["a"][:, r]) * a["b"][r]
            y[t] += routing[t, r] * part
            y_block[t] += block[t, r // d["RB"]] * part
    return {"y": y, "routing": routing, "y_block": y_block, "routing_block": block}
