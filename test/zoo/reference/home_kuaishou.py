import numpy as np
from common import sigmoid, silu, softmax

EPS = 1e-5
CATEGORY = (0, 1, 1)
PERMUTES = ["T"]
SPLITS = ["T"]


def make_inputs(rng, dims):
    def norm(groups):
        bn = rng.standard_normal((groups, dims["M"], 4, dims["H"])) * 0.3
        bn[:, :, 0] += 1.0
        bn[:, :, 3] = rng.uniform(0.5, 1.5, bn[:, :, 3].shape)
        return bn

    return {"bn1": norm(3), "bn2": norm(6)}


def expert(v, w, down, up, bn):
    z = (v * 2 * sigmoid((v @ down) @ up)) @ w
    return silu(bn[0] * (z - bn[2]) / np.sqrt(bn[3] + EPS) + bn[1])


def mix(weights, outputs):
    return np.sum([w * o for w, o in zip(weights, outputs)], axis=0)


def reference(a, d):
    T, H, M = d["T"], d["H"], d["M"]
    out = {"y": np.zeros((3, T, H)), "routing": np.zeros((3, T, 6)), "z": np.zeros((3, T, H))}
    for t, x in enumerate(a["x"]):
        o = [[expert(x, a["w1"][g, m], a["a1"][g, m], a["b1"][g, m], a["bn1"][g, m]) for m in range(M)] for g in range(3)]
        z = [mix(softmax(x @ a["g1_shared"]), o[0] + o[1] + o[2]) + mix(softmax(x @ a["sg1"][0]), o[0])]
        for c in range(2):
            z.append(mix(softmax(x @ a["g1_cat"][c]), o[1 + c] + o[0]) + mix(softmax(x @ a["sg1"][1 + c]), o[1 + c]))
        source = [z[0], z[1], z[2]] + [z[1 + CATEGORY[n]] for n in range(3)]
        u = [[expert(source[g], a["w2"][g, m], a["a2"][g, m], a["b2"][g, m], a["bn2"][g, m]) for m in range(M)] for g in range(6)]
        for n in range(3):
            c = CATEGORY[n]
            gate = softmax(z[1 + c] @ a["g2"][n])
            out["routing"][n, t] = gate
            out["y"][n, t] = mix(gate, u[3 + n] + u[1 + c] + u[0]) + mix(softmax(z[1 + c] @ a["sg2"][n]), u[3 + n])
        out["z"][:, t] = z
    return out
