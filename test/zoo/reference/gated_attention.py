import numpy as np
from common import sigmoid, softmax

PERMUTES = ["B"]
SPLITS = ["B"]
SIZES = [{"B": 0}, {"S": 0}, {"B": 1, "S": 1}, {"B": 3, "S": 2}, {"B": 2, "S": 13}, {"B": 1, "S": 19}]


def reference(a, d):
    B, S, H, KV, DH = (d[n] for n in ("B", "S", "H", "KV", "DH"))
    elem, head = np.zeros((B, S, H * DH)), np.zeros((B, S, H * DH))
    gh = sigmoid(a["x"] @ a["wgh"])
    for b, x in enumerate(a["x"]):
        q, k, v = (x @ a["wq"]).reshape(S, H, DH), (x @ a["wk"]).reshape(S, KV, DH), (x @ a["wv"]).reshape(S, KV, DH)
        for s in range(S):
            for h in range(H):
                g = h // (H // KV)
                o = softmax(k[: s + 1, g] @ q[s, h] / np.sqrt(DH)) @ v[: s + 1, g]
                elem[b, s, h * DH : (h + 1) * DH] = o * sigmoid(x[s] @ a["wge"])[h * DH : (h + 1) * DH]
                head[b, s, h * DH : (h + 1) * DH] = o * gh[b, s, h]
    return {"y_elem": elem @ a["wo"], "y_head": head @ a["wo"], "gate_head": gh}
