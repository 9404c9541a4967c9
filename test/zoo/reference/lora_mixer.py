import numpy as np
from common import softmax, topk

PERMUTES = ["B", "E"]
SPLITS = ["B"]
SCALE = 1.5


def reference(a, d):
    B, S, D, H, DH = (d[k] for k in ("B", "S", "D", "H", "DH"))
    y, routing = np.zeros((B, S, D)), np.zeros((B, S, d["E"]))

    def linear(n, v, gates):
        out = v @ a["w"][n]
        for e in np.flatnonzero(gates):
            out = out + SCALE * gates[e] * ((v @ a["a"][n, e]) @ a["b"][n, e])
        return out

    for i, x in enumerate(a["x"]):
        q, k, v = np.zeros((S, D)), np.zeros((S, D)), np.zeros((S, D))
        for s in range(S):
            p = softmax(x[s] @ a["wr"])
            chosen = topk(p, d["K"])
            routing[i, s, chosen] = p[chosen] / p[chosen].sum()
            q[s], k[s], v[s] = (linear(n, x[s], routing[i, s]) for n in range(3))
        for s in range(S):
            c = np.zeros(D)
            for h in range(H):
                own = slice(h * DH, (h + 1) * DH)
                attention = softmax(k[: s + 1, own] @ q[s, own] / np.sqrt(DH))
                c[own] = attention @ v[: s + 1, own]
            y[i, s] = linear(3, c, routing[i, s])
    return {"y": y, "routing": routing}
