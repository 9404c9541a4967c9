//===- ModelMutator.h - models that stay models ----------------*- C++ -*-===//
//
// Changed bytes mostly make a file that is no model at all. This changes one field of the parsed message: numbers
// become others that matter, names those of other values, and elements of lists are dropped, doubled or exchanged, so
// that the checks behind the parser are met.
//
//===----------------------------------------------------------------------===//
#ifndef MOE_TEST_LIB_FUZZ_MODELMUTATOR_H
#define MOE_TEST_LIB_FUZZ_MODELMUTATOR_H

#include <google/protobuf/message.h>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

class ModelMutator {
public:
  explicit ModelMutator(unsigned seed) : random(seed) {}

  /// Changes one field somewhere in `message`; false if there is nothing to change.
  bool mutate(google::protobuf::Message &message) {
    collect(message);
    if (places.empty())
      return false;
    auto [owner, field] = places[pick(places.size())];
    if (field->is_repeated())
      changeList(*owner, field);
    else
      changeValue(*owner, field, -1);
    return true;
  }

private:
  using Field = const google::protobuf::FieldDescriptor *;

  size_t pick(size_t count) { return std::uniform_int_distribution<size_t>(0, count - 1)(random); }

  void collect(google::protobuf::Message &message) {
    const auto *reflection = message.GetReflection();
    std::vector<Field> fields;
    reflection->ListFields(message, &fields);
    for (Field field : fields) {
      places.emplace_back(&message, field);
      bool isMessage = field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE;
      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING) {
        for (int i = 0; field->is_repeated() && i < reflection->FieldSize(message, field); ++i)
          names.push_back(reflection->GetRepeatedString(message, field, i));
        if (!field->is_repeated())
          names.push_back(reflection->GetString(message, field));
      }
      if (isMessage && field->is_repeated())
        for (int i = 0; i < reflection->FieldSize(message, field); ++i)
          collect(*reflection->MutableRepeatedMessage(&message, field, i));
      else if (isMessage)
        collect(*reflection->MutableMessage(&message, field));
    }
  }

  int64_t number(int64_t old) {
    const int64_t odd[] = {0,
                           1,
                           -1,
                           2,
                           3,
                           7,
                           8,
                           16,
                           127,
                           255,
                           1 << 20,
                           int64_t(1) << 31,
                           int64_t(1) << 40,
                           -2,
                           -8,
                           std::numeric_limits<int64_t>::max(),
                           std::numeric_limits<int64_t>::min()};
    switch (pick(4)) {
    case 0:
      return static_cast<int64_t>(static_cast<uint64_t>(old) + 1);
    case 1:
      return static_cast<int64_t>(static_cast<uint64_t>(old) - 1);
    default:
      return odd[pick(std::size(odd))];
    }
  }

  /// `at` is the element of a list, or -1.
  void changeValue(google::protobuf::Message &owner, Field field, int at) {
    using D = google::protobuf::FieldDescriptor;
    const auto *reflection = owner.GetReflection();
    const double reals[] = {0.0,
                            -0.0,
                            1e38,
                            -1e38,
                            1e-40,
                            std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity(),
                            -1.0};
#define CHANGE(KIND, VALUE)                                                                                            \
  if (at < 0)                                                                                                          \
    reflection->Set##KIND(&owner, field, VALUE(reflection->Get##KIND(owner, field)));                                  \
  else                                                                                                                 \
    reflection->SetRepeated##KIND(&owner, field, at, VALUE(reflection->GetRepeated##KIND(owner, field, at)));          \
  break
    auto real = [&](double) { return reals[pick(std::size(reals))]; };
    auto whole = [&](int64_t old) { return number(old); };
    auto name = [&](const std::string &old) {
      if (pick(4) == 0)
        return old + "x";
      return names[pick(names.size())];
    };
    switch (field->cpp_type()) {
    case D::CPPTYPE_INT32:
      CHANGE(Int32, whole);
    case D::CPPTYPE_INT64:
      CHANGE(Int64, whole);
    case D::CPPTYPE_UINT64:
      CHANGE(UInt64, whole);
    case D::CPPTYPE_FLOAT:
      CHANGE(Float, real);
    case D::CPPTYPE_DOUBLE:
      CHANGE(Double, real);
    case D::CPPTYPE_STRING:
      CHANGE(String, name);
    case D::CPPTYPE_ENUM: {
      const auto *kind = field->enum_type();
      if (at < 0)
        reflection->SetEnum(&owner, field, kind->value(pick(kind->value_count())));
      break;
    }
    default:
      if (at < 0)
        reflection->ClearField(&owner, field);
    }
#undef CHANGE
  }

  void changeList(google::protobuf::Message &owner, Field field) {
    const auto *reflection = owner.GetReflection();
    int count = reflection->FieldSize(owner, field);
    if (count == 0)
      return;
    int at = static_cast<int>(pick(count));
    bool isMessage = field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE;
    switch (pick(4)) {
    case 0:
      reflection->SwapElements(&owner, field, at, count - 1);
      reflection->RemoveLast(&owner, field);
      return;
    case 1:
      reflection->SwapElements(&owner, field, at, static_cast<int>(pick(count)));
      return;
    case 2:
      if (isMessage) {
        auto *copy = reflection->AddMessage(&owner, field);
        copy->CopyFrom(reflection->GetRepeatedMessage(owner, field, at));
        return;
      }
      [[fallthrough]];
    default:
      if (!isMessage)
        changeValue(owner, field, at);
    }
  }

  std::mt19937 random;
  std::vector<std::pair<google::protobuf::Message *, Field>> places;
  std::vector<std::string> names;
};

#endif // MOE_TEST_LIB_FUZZ_MODELMUTATOR_H
