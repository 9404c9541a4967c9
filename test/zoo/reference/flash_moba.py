import numpy as np
from common import silu, softmax, topk

PERMUTES = ["B"]
SPLITS = ["B"]
SIZES = [{"B": b, "S": s} for b, s in ((0, 5), (1, 0), (1, 1), (1, 2), (2, 4), (3, 5), (1, 8), (2, 13), (1, 31), (5, 9))]


def reference(a, d):
    B, S, H, DH, BK = d["B"], d["S"], d["H"], d["DH"], d["BK"]
    y, attended = np.zeros((B, S, d["D"])), np.zeros((B, H, S, S))
    for b, x in enumerate(a["x"]):
        q, k0, v = x @ a["wq"], x @ a["wk"], x @ a["wv"]
        k = np.zeros_like(k0)
        for s in range(S):
            taps = [a["kw"][w] * k0[s - w] for w in range(d["W"]) if s - w >= 0]
            k[s] = k0[s] + silu(np.sum(taps, axis=0))
        out = np.zeros((S, d["HD"]))
        for h in range(H):
            c = slice(h * DH, (h + 1) * DH)
            for s in range(S):
                own = s // BK
                means = [np.mean(k[j * BK : (j + 1) * BK, c], axis=0) for j in range(own)]
                allowed = list(range(own * BK, s + 1))
                for j in topk([q[s, c] @ m for m in means], min(d["K"], own)):
                    allowed += range(j * BK, (j + 1) * BK)
                attended[b, h, s, allowed] = 1
                out[s, c] = softmax([q[s, c] @ k[j, c] / np.sqrt(DH) for j in allowed]) @ v[allowed, c]
        y[b] = out @ a["wo"]
    return {"y": y, "attended": attended}
