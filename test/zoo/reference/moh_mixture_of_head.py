import numpy as np
from common import softmax, topk

PERMUTES = ["B"]
SPLITS = ["B"]
SIZES = [{"B": 0}, {"S": 0}, {"B": 1, "S": 1}, {"B": 3, "S": 2}, {"B": 2, "S": 13}, {"B": 1, "S": 19}]


def reference(a, d):
    B, S, H, DH, HS, D = (d[n] for n in ("B", "S", "H", "DH", "HS", "D"))
    out = {n: np.zeros((B, S, D)) for n in ("y", "y_pf")} | {n: np.zeros((B, S, H)) for n in ("routing", "mask_pf")}
    for b in range(B):
        q, k, v = ((a["x"][b] @ a[n]).reshape(S, H, DH) for n in ("wq", "wk", "wv"))
        for s in range(S):
            x = a["x"][b, s]
            kinds, r = softmax(x @ a["wh"]), softmax(x @ a["wr"])
            chosen = HS + topk(r, d["K"])
            out["routing"][b, s, :HS] = kinds[0] * softmax(x @ a["ws"])
            out["routing"][b, s, chosen] = kinds[1] * r[chosen - HS]
            named = HS + topk(np.sum(q[s, HS:] ** 2, axis=1), d["K"])
            out["mask_pf"][b, s, :HS] = out["mask_pf"][b, s, named] = 1
            for h in range(H):
                rows = a["wo"][h * DH : (h + 1) * DH]
                p = softmax(k[:, h] @ q[s, h] / np.sqrt(DH))
                out["y"][b, s] += out["routing"][b, s, h] * (p @ v[:, h] @ rows)
                p = softmax(k[: s + 1, h] @ q[s, h] / np.sqrt(DH))
                out["y_pf"][b, s] += out["mask_pf"][b, s, h] * (p @ v[: s + 1, h] @ rows)
    return out
