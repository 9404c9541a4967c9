//===- Roofline.cpp - how far a call is from the machine's limits ---------===//
#include "Roofline.h"
#include <algorithm>
#include <cmath>

namespace moe::run {

using namespace rt;

std::optional<Work> countWork(const Call &call) {
  const FunctionSignature &signature = *call.function.signature;
  if (!signature.work)
    return std::nullopt;
  std::vector<const Tensor *> inputs = call.boundInputs();
  auto evaluate = [&](const SizeFormula &formula) {
    double sum = 0;
    for (const SizeFormula::Term &term : formula.terms) {
      auto product = static_cast<double>(term.factor);
      for (auto [argument, dim] : term.sizes) {
        const Shape &shape = inputs[argument] ? inputs[argument]->shape : signature.arguments[argument].shape;
        product *= static_cast<double>(shape[dim]);
      }
      sum += product;
    }
    return sum;
  };

  const WorkSignature &facts = *signature.work;
  Work work;
  work.complete = facts.complete;
  work.flop = evaluate(facts.flop);
  work.bytes = static_cast<double>(facts.weightBytes);
  for (const WorkSignature::Layer &layer : facts.layers) {
    if (!layer.rows)
      continue;
    double rows = evaluate(*layer.rows), experts = static_cast<double>(std::max<int64_t>(layer.experts, 1));
    double missed = std::pow(std::max(0.0, 1 - static_cast<double>(layer.perRow) / experts), rows);
    work.flop += rows * static_cast<double>(layer.perRow * layer.flopPerPair);
    work.bytes += experts * (1 - missed) * static_cast<double>(layer.bytesPerExpert);
  }
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i] && std::find(facts.banks.begin(), facts.banks.end(), i) == facts.banks.end())
      work.bytes += static_cast<double>(inputs[i]->bytes());
  for (const std::string &name : call.function.outputNames())
    work.bytes += static_cast<double>(call.output(name).bytes());
  return work;
}

double leastSeconds(const Work &work, const Machine &machine) {
  return std::max(work.bytes / machine.bytesPerSecond, work.flop / machine.flopPerSecond);
}

double shareOfTurns(const Work &work, const std::vector<Timings::Turn> &turns) {
  std::vector<double> shares;
  for (const Timings::Turn &turn : turns)
    shares.push_back(leastSeconds(work, turn.machine) / turn.median);
  std::sort(shares.begin(), shares.end());
  return shares[shares.size() / 2];
}

} // namespace moe::run
