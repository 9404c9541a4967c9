import numpy as np
from common import softmax, swiglu, topk

PERMUTES = ["E", "F"]


def reference(a, d):
    T, E, H, HD, x = d["T"], d["E"], d["H"], d["HD"], a["x"]
    out = {"y_full": x.copy(), "y_kv": x.copy(), "soft": np.zeros((T, E)), "routing": np.zeros((T, E))}
    if T == 0:
        return out
    n = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5) * a["gamma"] + a["beta"]
    out["soft"] = soft = softmax(n @ a["wga"], axis=1)
    for name, keys, values in (("y_full", a["wk"], a["wv"]), ("y_kv", [a["wk_s"]] * E, [a["wv_s"]] * E)):
        for i in range(E):
            q, k, v, ctx = n @ a["wq"][i], n @ keys[i], n @ values[i], np.zeros((T, d["D"]))
            for h in range(H):
                c = slice(h * HD, (h + 1) * HD)
                for t in range(T):
                    ctx[t, c] = softmax(k[: t + 1, c] @ q[t, c] / np.sqrt(HD)) @ v[: t + 1, c]
            out[name] += soft[:, i : i + 1] * (ctx @ a["wo"][i])
    for t in range(T):
        z = n[t] @ a["wgf"]
        chosen = topk(z, d["K"])
        out["routing"][t, chosen] = softmax(z[chosen])
        for e in chosen:
            o = out["routing"][t, e] * swiglu(n[t], a["w1"][e], a["w3"][e], a["w2"][e])
            out["y_full"][t] += o
            out["y_kv"][t] += o
    return out
