import numpy as np
from common import rms_norm, rope, softmax, swiglu, topk

EPS = 1e-5
PERMUTES = ["EM", "F", "FR"]


def make_inputs(rng, dims):
    return {
        "pos0": np.array(rng.integers(0, 9)),
        "past_len": rng.integers(0, dims["S"] + 1, dims["EA"]),
        "g_attn": 1 + 0.2 * rng.standard_normal(dims["D"]), "g_mlp": 1 + 0.2 * rng.standard_normal(dims["D"]),
        "w_q": rng.standard_normal((dims["EA"], dims["D"], dims["QH"], dims["HD"])) / np.sqrt(dims["D"]),
        "w_o": rng.standard_normal((dims["EA"], dims["QH"], dims["HD"], dims["D"])) / np.sqrt(dims["HD"]),
    }


def choose(p, k):
    weights = np.zeros_like(p)
    for t in range(len(p)):
        chosen = topk(p[t], k)
        weights[t, chosen] = p[t, chosen] / np.sum(p[t, chosen])
    return weights


def reference(a, d):
    T, EA, HD = d["T"], d["EA"], d["HD"]
    pos0 = int(a["pos0"])
    n = rms_norm(a["x"], a["g_attn"], EPS)
    attn = choose(softmax(n @ a["w_ga"]), d["KA"])
    new_k, new_v, h = np.zeros((EA, T, HD)), np.zeros((EA, T, HD)), a["x"].copy()
    for e in range(EA):
        rows = np.flatnonzero(attn[:, e] > 0)
        past = int(a["past_len"][e])
        keys, values = list(a["past_k"][e, :past]), list(a["past_v"][e, :past])
        for r, t in enumerate(rows):
            new_k[e, r], new_v[e, r] = rope(n[t] @ a["w_k"][e], pos0 + t), n[t] @ a["w_v"][e]
            keys.append(new_k[e, r])
            values.append(new_v[e, r])
            for head in range(d["QH"]):
                q = rope(n[t] @ a["w_q"][e][:, head, :], pos0 + t)
                c = softmax(np.array(keys) @ q / np.sqrt(HD)) @ np.array(values)
                h[t] += attn[t, e] * (c @ a["w_o"][e, head])
    m = rms_norm(h, a["g_mlp"], EPS)
    mlp = choose(softmax(m @ a["w_gm"]), d["KM"])
    y = h + swiglu(m, a["r_g"], a["r_u"], a["r_d"])
    for t, e in np.argwhere(mlp > 0):
        y[t] += mlp[t, e] * swiglu(m[t], a["w_g"][e], a["w_u"][e], a["w_d"][e])
    return {
        "y": y, "routing_attn": attn, "routing_mlp": mlp,
        "new_len": np.count_nonzero(attn > 0, axis=0), "new_k": new_k, "new_v": new_v,
    }
