import numpy as np
from common import softmax

PERMUTES = ["T", "E", "R"]
SPLITS = ["T"]


def entmax15(z):
    """p_e = max(0, z_e / 2 - tau)^2 with the sum 1, tau by bisection."""
    h = np.asarray(z) / 2
    low, high = h.max() - 1, h.max()
    for _ in range(200):
        tau = (low + high) / 2
        if np.sum(np.maximum(h - tau, 0) ** 2) > 1:
            low = tau
        else:
            high = tau
    return np.maximum(h - (low + high) / 2, 0) ** 2


def reference(a, d):
    T, O = d["T"], d["O"]
    out = {"y_cp": np.zeros((T, O)), "y_tr": np.zeros((T, O)), "gate_cp": np.zeros((T, d["E"])), "gate_tr": np.zeros((T, d["E"]))}
    cp = np.einsum("er,ir,or->eio", a["ue"], a["ui"], a["uo"])
    ring = np.einsum("aeb,bic,coa->eio", a["ge"], a["gi"], a["go"])
    for t, x in enumerate(a["x"]):
        xa, z = np.append(x, 1.0), x @ a["wg"]
        out["gate_cp"][t], out["gate_tr"][t] = entmax15(z), softmax(z)
        out["y_cp"][t] = np.einsum("e,i,eio->o", out["gate_cp"][t], xa, cp)
        out["y_tr"][t] = np.einsum("e,i,eio->o", out["gate_tr"][t], xa, ring)
    return out
