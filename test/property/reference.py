"""The routed level in numpy, written from docs/spec.md: a routing is a list of rows, each a list of (expert, weight)."""

import numpy as np

f32 = np.float32


def better(key_a, key_b, tie):
    """Whether a comes before b in rank order; `tie` decides between equals."""
    if np.isnan(key_a) or np.isnan(key_b):
        return tie if np.isnan(key_a) and np.isnan(key_b) else bool(np.isnan(key_b))
    return bool(key_a > key_b) or (bool(key_a == key_b) and tie)


def ranked(items, key, tie):
    """`items` in rank order: a stable insertion by `better`."""
    out = []
    for item in items:
        at = len(out)
        while at > 0 and better(key(item), key(out[at - 1]), tie(item) < tie(out[at - 1])):
            at -= 1
        out.insert(at, item)
    return out


def route(weights, mask=None):
    return [[(e, w) for e, w in enumerate(row) if mask is None or mask[t][e]] for t, row in enumerate(weights)]


def from_slots(indices, weights, experts):
    return [[(int(e), w) for e, w in zip(i, ws) if 0 <= e < experts] for i, ws in zip(indices, weights)]


def concat(a, b, experts_of_a):
    return [x + [(e + experts_of_a, w) for e, w in y] for x, y in zip(a, b)]


def top_k_rows(routing, k, highest=False, by=None, groups=1, keep=None, score="max", experts=0):
    sign = -1 if highest else 1
    size = experts // groups if groups > 1 else 1
    result = []
    for t, row in enumerate(routing):
        key = (lambda pair: by[t][pair[0]]) if by is not None else (lambda pair: pair[1])
        best = lambda pairs: ranked(pairs, key, lambda pair: sign * pair[0])[:k]
        if groups == 1:
            result.append(best(row))
            continue
        parts = [[pair for pair in row if pair[0] // size == g] for g in range(groups)]
        if keep is None:
            result.append(sum((best(part) for part in parts), []))
            continue

        def value(g):
            keys = [key(pair) for pair in ranked(parts[g], key, lambda pair: 0)]
            return keys[0] if score == "max" or len(keys) == 1 else f32(keys[0] + keys[1])

        chosen = ranked([g for g in range(groups) if parts[g]], value, lambda g: sign * g)[:keep]
        result.append(best([pair for pair in row if pair[0] // size in chosen]))
    return result


def numbered(routing):
    return [(t, p, e, w) for t, row in enumerate(routing) for p, (e, w) in enumerate(row)]


def only(routing, kept):
    return [[pair for p, pair in enumerate(row) if (t, p) in kept] for t, row in enumerate(routing)]


def top_k_experts(routing, k, experts, highest=False, by=None):
    kept = set()
    for e in range(experts):
        mine = [x for x in numbered(routing) if x[2] == e]
        key = (lambda x: by[x[0]][e]) if by is not None else (lambda x: x[3])
        kept |= {x[:2] for x in ranked(mine, key, lambda x: -x[0] if highest else x[0])[: k[e]]}
    return only(routing, kept)


def top_k_all(routing, k, highest=False):
    sign = -1 if highest else 1
    return only(routing, {x[:2] for x in ranked(numbered(routing), lambda x: x[3], lambda x: (sign * x[0], sign * x[2]))[:k]})


def limit(routing, cap, order, experts):
    if order == "key":
        return top_k_experts(routing, cap, experts)
    pairs = numbered(routing)
    if order == "rank_then_row":
        pairs.sort(key=lambda x: (x[1], x[0]))
    taken, kept = [0] * experts, set()
    for t, p, e, _ in pairs:
        if taken[e] < cap[e]:
            taken[e] += 1
            kept.add((t, p))
    return only(routing, kept)


def select(routing, keep):
    """`keep(key, rank, before)` on each row in rank order."""
    result = []
    for row in routing:
        before, out = f32(0), []
        for rank, pair in enumerate(ranked(row, lambda pair: pair[1], lambda pair: pair[0])):
            if keep(pair[1], rank, before):
                out.append(pair)
            before = f32(before + pair[1])
        result.append(out)
    return result


def normalize(routing, by, axis, eps, experts):
    groups = {"expert": lambda t, e: t, "token": lambda t, e: e, "all": lambda t, e: 0}[axis]
    lists = {}
    for t, p, e, w in numbered(routing):
        lists.setdefault(groups(t, e), []).append(w)
    with np.errstate(all="ignore"):

        def new(w, ws):
            largest = f32(np.max(ws))
            if by == "softmax":
                if largest == -np.inf:
                    return f32(0)
                total = f32(0)
                for x in ws:
                    total = f32(total + np.exp(f32(x - largest)))
                numerator = np.exp(f32(w - largest))
            else:
                total = f32(0)
                for x in ws:
                    total = f32(total + x)
                total = f32((total if by == "sum" else largest) + f32(eps))
                numerator = w
            return f32(0) if total == 0 else f32(numerator / total)

        return [[(e, new(w, lists[groups(t, e)])) for e, w in row] for t, row in enumerate(routing)]


def to_slots(routing, slots):
    indices = np.full((len(routing), slots), -1, np.int32)
    weights = np.zeros((len(routing), slots), f32)
    for t, row in enumerate(routing):
        for s, (e, w) in enumerate(row):
            indices[t, s], weights[t, s] = e, w
    return indices, weights


def to_dense(routing, experts):
    out = np.zeros((len(routing), experts), f32)
    for t, p, e, w in numbered(routing):
        out[t, e] += w
    return out


def apply(routing, x, body, experts, columns, weighted, capacity):
    """The results for every mode, and per pair what the body gives; `body(rows, e)` in double precision."""
    tokens = len(routing)
    values = {}
    for e in range(experts):
        mine = [(t, p, w) for t, p, number, w in numbered(routing) if number == e]
        if not mine:
            continue
        rows = x[[t for t, _, _ in mine]].astype(np.float64)
        if weighted == "before":
            rows = rows * np.array([w for _, _, w in mine], np.float64)[:, None]
        for (t, p, _), row in zip(mine, body(rows, e)):
            values[t, p] = row
    out = {
        "sum": np.zeros((tokens, columns)),
        "mean": np.zeros((tokens, columns)),
        "max": np.zeros((tokens, columns)),
        "dense": np.zeros((tokens, experts, columns)),
        "buckets": np.zeros((experts, max(capacity, 0), columns)),
    }
    used = [0] * experts
    for t, row in enumerate(routing):
        factors = [w if weighted == "after" else 1.0 for _, w in row]
        scaled = [np.float64(f) * values[t, p] for p, f in enumerate(factors)]
        if scaled:
            out["sum"][t] = np.sum(scaled, axis=0)
            out["mean"][t] = out["sum"][t] / len(scaled)
            out["max"][t] = np.max(scaled, axis=0)
        for p, (e, _) in enumerate(row):
            out["dense"][t, e] += values[t, p]
            if used[e] < capacity:
                out["buckets"][e, used[e]] = values[t, p]
            used[e] += 1
    return out
