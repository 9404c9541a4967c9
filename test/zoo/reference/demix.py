import numpy as np
from common import gelu, softmax

PERMUTES = ["F"]


def make_inputs(rng, d):
    return {"target": rng.integers(0, d["V"], d["T"]), "domain": rng.integers(0, d["E"], 1)}


def layer_norm(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


def reference(a, d):
    T, E, V = d["T"], d["E"], d["V"]
    logp = np.zeros((E, T, V))
    for j in range(E):
        for t, x in enumerate(a["x"]):
            z = layer_norm(x + gelu(layer_norm(x) @ a["w1"][j]) @ a["w2"][j]) @ a["wout"]
            logp[j, t] = z - z.max() - np.log(np.exp(z - z.max()).sum())
    state, post, mix = a["state"].copy(), np.zeros((T, E)), np.zeros((T, V))
    for t in range(T):
        post[t] = softmax(state)
        mix[t] = np.log(post[t] @ np.exp(logp[:, t]))
        state = state + logp[:, t, a["target"][t]]
    state = state - state.max()
    return {"logp_mix": mix, "post": post, "state_out": state - np.log(np.exp(state).sum()), "logp_label": logp[a["domain"][0]]}
