"""A stand-in for OpenVINO: what benchmarks/openvino_chain.py calls, in numpy, from OpenVINO's documentation. Nodes compute when they are asked."""
import numpy as np

__version__ = "stand-in"


class Node:
    def __init__(self, compute, *sources):
        self.compute, self.sources, self.number = compute, sources, None

    def output(self, number):
        node = Node(lambda outputs: outputs[number], self)
        return node

    def value(self, known):
        if self not in known:
            known[self] = self.compute(*(source.value(known) for source in self.sources))
        return known[self]


class Model:
    def __init__(self, results, parameters, name):
        (self.result,), self.parameters = results, parameters


class Request:
    def __init__(self, model):
        self.model = model

    def infer(self, inputs):
        for parameter, array in zip(self.model.parameters, inputs):
            assert array.dtype == parameter.kind and all(want in (-1, got) for want, got in zip(parameter.shape, array.shape))
        return [self.model.result.value(dict(zip(self.model.parameters, inputs)))]


class Compiled:
    def __init__(self, model):
        self.model = model

    def create_infer_request(self):
        return Request(self.model)


class Core:
    def compile_model(self, model, device, settings):
        assert device == "CPU" and settings["INFERENCE_PRECISION_HINT"] == "f32" and settings["INFERENCE_NUM_THREADS"] in (1, 2)
        return Compiled(model)
