import numpy as np
from common import argmax, relu, sigmoid, softmax

PERMUTES = ["R"]
SPLITS = ["R"]


def make_inputs(rng, d):
    return {
        "p": rng.uniform(0, 1, (d["R"], d["NS"], 3)),
        "delta": rng.uniform(0.05, 0.4, (d["R"], d["NS"])),
        "gres": rng.integers(2, 17, d["LG"]),
        "eres": rng.integers(2, 33, (d["E"], d["LV"])),
        "gtab": rng.standard_normal((d["LG"], d["HG"], d["FH"])),
        **{f"tab{e}": rng.standard_normal((d["LV"], d[f"H{e}"], d["FH"])) for e in range(3)},
    }


def encode(p, table, resolutions):
    features = []
    for level, n in zip(table, resolutions):
        cell = np.floor(p * n).astype(int)
        f = p * n - cell
        out = np.zeros(level.shape[1])
        for corner in np.ndindex(2, 2, 2):
            a, b, g = (int(c) for c in cell + corner)
            entry = (a ^ (b * 2654435761 % 2**32) ^ (g * 805459861 % 2**32)) % len(level)
            out += np.prod(np.where(corner, f, 1 - f)) * level[entry]
        features.append(out)
    return np.concatenate(features)


def reference(a, d):
    R, NS = d["R"], d["NS"]
    rgb, opacity, expert, gate = np.zeros((R, 3)), np.zeros(R), np.zeros((R, NS), int), np.zeros((R, NS))
    for r in range(R):
        through = 1.0
        for n in range(NS):
            p = a["p"][r, n]
            pr = softmax(relu(encode(p, a["gtab"], a["gres"]) @ a["gw1"]) @ a["gw2"])
            e = expert[r, n] = argmax(pr)
            gate[r, n] = pr[e]
            hidden = relu(encode(p, a[f"tab{e}"], a["eres"][e]) @ a["w1"][e])
            o = pr[e] * (hidden @ a["w2"][e])
            alpha = 1 - np.exp(-np.log1p(np.exp(o[0])) * a["delta"][r, n])
            rgb[r] += through * alpha * sigmoid(o[1:])
            opacity[r] += through * alpha
            through *= 1 - alpha
    return {"rgb": rgb, "opacity": opacity, "expert": expert, "gate_weight": gate}
