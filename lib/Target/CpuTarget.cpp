//===- CpuTarget.cpp - the machine that a module is compiled for ----------===//
#include "moe/Target/CpuTarget.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/TargetParser/Host.h"

using namespace llvm;

namespace mlir::moe {

namespace {
/// LLVM's name of an instruction set, and that of the operating system.
struct FeatureName {
  StringLiteral llvm, system;
};
} // namespace

// Only what LLVM emits in ordinary code: a module must not be refused for a feature that it cannot use.
static constexpr FeatureName kFeatures[] = {
    {"sse4.2", "sse4_2"},
    {"popcnt", "popcnt"},
    {"avx", "avx"},
    {"avx2", "avx2"},
    {"bmi", "bmi1"},
    {"bmi2", "bmi2"},
    {"f16c", "f16c"},
    {"fma", "fma"},
    {"lzcnt", "abm"},
    {"movbe", "movbe"},
    {"avx512f", "avx512f"},
    {"avx512bw", "avx512bw"},
    {"avx512cd", "avx512cd"},
    {"avx512dq", "avx512dq"},
    {"avx512vl", "avx512vl"},
    {"avx512ifma", "avx512ifma"},
    {"avx512vbmi", "avx512vbmi"},
    {"avx512vbmi2", "avx512_vbmi2"},
    {"avx512vnni", "avx512_vnni"},
    {"avx512bitalg", "avx512_bitalg"},
    {"avx512bf16", "avx512_bf16"},
    {"avx512fp16", "avx512_fp16"},
    {"avxvnni", "avx_vnni"},
    {"avx512vpopcntdq", "avx512_vpopcntdq"},
    {"avxvnniint8", "avx_vnni_int8"},
    {"avxneconvert", "avx_ne_convert"},
    {"amx-tile", "amx_tile"},
    {"amx-int8", "amx_int8"},
    {"amx-bf16", "amx_bf16"},
    {"gfni", "gfni"},
};

/// What tiles hold, and the feature that multiplies it.
static constexpr std::pair<StringLiteral, StringLiteral> kTileFeatures[] = {{"bf16", "amx-bf16"}, {"int8", "amx-int8"}};

std::string getDefaultCpus(bool integers, ArrayRef<StringRef> tileTypes) {
  std::string cpus = kDefaultCpus.str(), best = "x86-64-v4";
  if (integers) {
    best += "+avx512vnni";
    // A processor may have both kinds of VNNI: the last version that it can run is the one that it gets.
    cpus = (kBaselineCpu + "," + kBaselineCpu + "+avxvnni," + "x86-64-v4," + best).str();
  }
  if (tileTypes.empty())
    return cpus;
  for (auto &[type, feature] : kTileFeatures)
    if (is_contained(tileTypes, type))
      best += "+" + feature.str();
  return cpus + "," + best;
}

static CodeGenOptLevel getCodeGenOptLevel(unsigned level) {
  return level == 0   ? CodeGenOptLevel::None
         : level == 1 ? CodeGenOptLevel::Less
         : level == 2 ? CodeGenOptLevel::Default
                      : CodeGenOptLevel::Aggressive;
}

Expected<CpuTarget> createCpuTarget(StringRef cpu, unsigned optLevel) {
  InitializeAllTargetInfos();
  InitializeAllTargets();
  InitializeAllTargetMCs();
  InitializeAllAsmPrinters();
  InitializeAllAsmParsers();

  CpuTarget result;
  result.triple = "x86_64-unknown-linux-gnu";
  std::string message;
  const Target *target = TargetRegistry::lookupTarget(Triple(result.triple), message);
  if (!target)
    return createStringError("this build of LLVM has no x86-64 code generator: " + message);

  std::string features;
  if (cpu == "native") {
    if (!Triple(sys::getProcessTriple()).isX86())
      return createStringError("'native' needs an x86-64 machine; name a processor with --mcpu");
    cpu = sys::getHostCPUName();
    // The name alone is a guess: a virtual machine may hide what its processor has.
    for (auto &[name, on] : sys::getHostCPUFeatures())
      features += (features.empty() ? "" : ",") + (on ? std::string("+") : std::string("-")) + name.str();
  }
  result.cpu = cpu.str();
  SmallVector<StringRef> added;
  cpu.split(added, '+');
  cpu = added.front();
  for (StringRef feature : drop_begin(added)) {
    if (none_of(kFeatures, [&](const FeatureName &known) { return known.llvm == feature; }))
      return createStringError("'" + feature + "' behind '" + cpu + "' is no instruction set that modules make use of");
    features += (features.empty() ? "+" : ",+") + feature.str();
  }

  std::unique_ptr<MCSubtargetInfo> probe(target->createMCSubtargetInfo(Triple(result.triple), "x86-64", ""));
  if (!probe->isCPUStringValid(cpu))
    return createStringError(
        "no processor is called '" + cpu +
        "'; try 'native', 'x86-64-v3', 'x86-64-v4', 'sapphirerapids', 'znver4' or any other name that "
        "LLVM knows");
  std::unique_ptr<MCSubtargetInfo> info(target->createMCSubtargetInfo(Triple(result.triple), cpu, features));
  if (!info->checkFeatures("+avx2") || !info->checkFeatures("+fma") || !info->checkFeatures("+f16c"))
    return createStringError("processor '" + cpu + "' lacks avx2, fma or f16c; the oldest supported one is x86-64-v3");
  for (const FeatureName &feature : kFeatures)
    if (info->checkFeatures(("+" + feature.llvm).str()))
      result.features.push_back(feature.system.str());
  bool wide = info->checkFeatures("+avx512vl");
  result.vectorLanes = wide ? 16 : 8;
  if (wide)
    result.integerDot = info->checkFeatures("+avx512vnni") ? "avx512vnni" : "avx512bw";
  else if (info->checkFeatures("+avxvnni"))
    result.integerDot = "avxvnni";
  for (auto &[type, feature] : kTileFeatures)
    if (info->checkFeatures(("+" + feature).str()))
      result.tileTypes.push_back(type);

  TargetOptions options;
  options.TrapUnreachable = false;
  result.machine.reset(target->createTargetMachine(Triple(result.triple), cpu, features, options, Reloc::PIC_,
                                                   CodeModel::Small, getCodeGenOptLevel(optLevel)));
  if (!result.machine)
    return createStringError("LLVM made no target machine for '" + cpu + "'");
  return result;
}

Expected<SmallVector<CpuTarget>> createCpuTargets(StringRef cpus, unsigned optLevel) {
  SmallVector<StringRef> names;
  cpus.split(names, ',');
  SmallVector<CpuTarget> targets;
  for (StringRef name : names) {
    Expected<CpuTarget> target = createCpuTarget(name.trim(), optLevel);
    if (!target)
      return target.takeError();
    if (!targets.empty()) {
      const CpuTarget &first = targets.front();
      for (const std::string &feature : first.features)
        if (!is_contained(target->features, feature))
          return createStringError("processor '" + target->cpu + "' lacks " + feature + ", which '" + first.cpu +
                                   "' has; the first of several processors is the one that all machines have");
      for (const CpuTarget &other : targets)
        if (other.features == target->features)
          return createStringError("processors '" + other.cpu + "' and '" + target->cpu +
                                   "' have the same features; a module needs one version of its code for both");
      target->suffix = "." + target->cpu;
    }
    targets.push_back(std::move(*target));
  }
  return targets;
}

} // namespace mlir::moe
