import numpy as np
from common import gelu, softmax, topk

PERMUTES = ["B"]
SPLITS = ["B"]


def reference(a, d):
    B, PN, PL, NE, NH, DH, FE, D = (d[n] for n in ("B", "PN", "PL", "NE", "NH", "DH", "FE", "D"))
    out = {"y": a["x"].copy(), "route_attn": np.zeros((B, PN, NE)), "route_mlp": np.zeros((B, PN, NE))}
    for b, x in enumerate(a["x"]):
        h = out["y"][b]
        r = np.array([softmax(x[p * PL : (p + 1) * PL].ravel() @ a["wra"]) for p in range(PN)])
        for n in range(NE):
            chosen = np.sort(topk(r[:, n], d["KP"]))
            out["route_attn"][b, chosen, n] = r[chosen, n]
            tokens = np.concatenate([np.arange(p * PL, (p + 1) * PL) for p in chosen])
            heads, rows = [], slice(n * NH * DH, (n + 1) * NH * DH)
            for m in range(NH):
                c = slice((n * NH + m) * DH, (n * NH + m + 1) * DH)
                q, k, v = (x[tokens] @ a[w][:, c] for w in ("wq", "wk", "wv"))
                heads.append(softmax(q @ k.T / np.sqrt(DH), axis=1) @ v)
            u = np.concatenate(heads, axis=1) @ a["wo"][rows]
            h[tokens] += r[tokens // PL, n][:, None] * u
        r2 = np.array([softmax(h[p * PL : (p + 1) * PL].ravel() @ a["wrm"]) for p in range(PN)])
        before = h.copy()
        for p in range(PN):
            for n in topk(r2[p], d["KE"]):
                out["route_mlp"][b, p, n] = r2[p, n]
                for s in range(p * PL, (p + 1) * PL):
                    c = slice(n * FE, (n + 1) * FE)
                    h[s] += r2[p, n] * (gelu(before[s] @ a["w1"][:, c]) @ a["w2"][c])
    return out
