/* The demo program: a byte-level language model, compiled to a module, judged on text that it never saw and asked to
 * write some.
 *
 *   bytelm_demo bytelm.moe [--logits=FILE] [--eval=FILE] [--prompt=TEXT] [--bytes=N] [--temperature=X] [--seed=N]
 * [--threads=N]
 *
 * It uses the public C functions only. Exit status: 0; 1 if a figure is not what it should be; 2 for anything else.
 */
#include <math.h>
#include <moe-c/Runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { context = 128, vocabulary = 256, batch = 8 };

/* What the model had on these tokens in the framework that trained it. */
static const double referencePerplexity = 3.0379;

static void check(moe_status *status) {
  if (!status)
    return;
  fprintf(stderr, "bytelm_demo: error: %s\n", moe_status_message(status));
  moe_status_free(status);
  exit(2);
}

static void refuse(const char *file, const char *why) {
  fprintf(stderr, "bytelm_demo: error: %s: %s\n", file, why);
  exit(2);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A tensor of a file, which must have this dtype and rank. */
static moe_tensor *readTensor(const char *path, const char *name, moe_dtype dtype, int32_t rank) {
  moe_tensors *file;
  moe_tensor *tensor;
  check(moe_tensors_read(path, &file));
  check(moe_tensors_get(file, name, &tensor));
  moe_tensors_free(file);
  if (moe_tensor_dtype(tensor) != dtype || moe_tensor_rank(tensor) != rank)
    refuse(path, "its tensors have other types than this program reads");
  return tensor;
}

/* Runs the model on rows x length tokens. The caller frees the logits, [rows, length, vocabulary]. */
static moe_tensor *run(moe_call *call, const int64_t *tokens, int64_t rows, int64_t length) {
  const int64_t dims[2] = {rows, length};
  moe_tensor *input, *logits;
  check(moe_tensor_create(MOE_I64, 2, dims, &input));
  memcpy(moe_tensor_data(input), tokens, (size_t)(rows * length) * sizeof(int64_t));
  check(moe_call_set_input(call, "input_ids", input));
  moe_tensor_free(input);
  check(moe_call_run(call));
  check(moe_call_output(call, "logits", &logits));
  if (moe_tensor_elements(logits) != rows * length * vocabulary)
    refuse("the module", "its logits are not [batch, sequence, 256]");
  return logits;
}

/* -log softmax(logits)[target] */
static double surprise(const float *logits, int64_t target) {
  double most = logits[0], sum = 0;
  for (int i = 1; i < vocabulary; ++i)
    most = logits[i] > most ? logits[i] : most;
  for (int i = 0; i < vocabulary; ++i)
    sum += exp(logits[i] - most);
  return log(sum) + most - logits[target];
}

static void checkToken(const char *path, int64_t token) {
  if (token < 0 || token >= vocabulary)
    refuse(path, "a token is not a byte");
}

/* Our logits beside the reference's. Where two experts are nearly tied a rounding error chooses the other one, so
 * single logits may differ; the loss over the text may not. */
static int compareLogits(moe_call *call, const char *path) {
  moe_tensor *ids = readTensor(path, "input_ids", MOE_I64, 2), *want = readTensor(path, "logits", MOE_F32, 3);
  const int64_t *dims = moe_tensor_dims(ids), *tokens = moe_tensor_data(ids);
  int64_t rows = dims[0], length = dims[1], agree = 0;
  double largest = 0, ours = 0, theirs = 0;
  if (moe_tensor_elements(want) != rows * length * vocabulary || rows * length < 2)
    refuse(path, "its logits do not fit its tokens");
  for (int64_t i = 0; i < rows * length; ++i)
    checkToken(path, tokens[i]);
  moe_tensor *got = run(call, tokens, rows, length);
  const float *g = moe_tensor_data(got), *w = moe_tensor_data(want);
  for (int64_t i = 0; i < rows * length; ++i, g += vocabulary, w += vocabulary) {
    int bestOurs = 0, bestTheirs = 0;
    for (int v = 0; v < vocabulary; ++v) {
      double error = fabs((double)g[v] - w[v]);
      largest = error <= largest ? largest : error; /* a NaN error gets through */
      bestOurs = g[v] > g[bestOurs] ? v : bestOurs;
      bestTheirs = w[v] > w[bestTheirs] ? v : bestTheirs;
    }
    agree += bestOurs == bestTheirs;
    if ((i + 1) % length != 0) {
      ours += surprise(g, tokens[i + 1]);
      theirs += surprise(w, tokens[i + 1]);
    }
  }
  double count = (double)(rows * (length - 1));
  int good = fabs(ours - theirs) / count < 1e-3;
  printf(
      "logits      largest difference %.2g, same best byte at %lld of %lld positions, loss %.4f (reference %.4f): %s\n",
      largest, (long long)agree, (long long)(rows * length), ours / count, theirs / count, good ? "ok" : "WRONG");
  moe_tensor_free(got);
  moe_tensor_free(want);
  moe_tensor_free(ids);
  return good;
}

static int measurePerplexity(moe_call *call, const char *path) {
  moe_tensor *ids = readTensor(path, "input_ids", MOE_I64, 2), *next = readTensor(path, "targets", MOE_I64, 2);
  const int64_t *dims = moe_tensor_dims(ids), *tokens = moe_tensor_data(ids), *targets = moe_tensor_data(next);
  int64_t rows = dims[0], length = dims[1];
  if (moe_tensor_elements(next) != rows * length || rows * length == 0)
    refuse(path, "its targets do not fit its tokens");
  double loss = 0, start = now();
  for (int64_t row = 0; row < rows; row += batch) {
    int64_t count = (rows - row < batch ? rows - row : batch);
    moe_tensor *logits = run(call, tokens + row * length, count, length);
    for (int64_t i = 0; i < count * length; ++i) {
      int64_t target = targets[row * length + i];
      checkToken(path, target);
      loss += surprise((const float *)moe_tensor_data(logits) + i * vocabulary, target);
    }
    moe_tensor_free(logits);
    if (isatty(STDOUT_FILENO)) {
      printf("\rperplexity  %3.0f %%  %.4f", 100.0 * (double)(row + count) / (double)rows,
             exp(loss / (double)((row + count) * length)));
      fflush(stdout);
    }
  }
  double seconds = now() - start, perplexity = exp(loss / (double)(rows * length));
  int good = fabs(perplexity - referencePerplexity) < 0.003;
  printf("%sperplexity  %.4f on %lld bytes of unseen text (reference %.4f): %s; %.0f bytes/s in batches of %d\n",
         isatty(STDOUT_FILENO) ? "\r" : "", perplexity, (long long)(rows * length), referencePerplexity,
         good ? "ok" : "WRONG", (double)(rows * length) / seconds, batch);
  moe_tensor_free(next);
  moe_tensor_free(ids);
  return good;
}

/* SplitMix64: the same text for the same seed on every machine. */
static double uniform(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* The most probable byte if the temperature is 0, else one drawn from softmax(logits / temperature). */
static int choose(const float *logits, double temperature, uint64_t *state) {
  double weights[vocabulary], sum = 0;
  int best = 0;
  for (int i = 1; i < vocabulary; ++i)
    best = logits[i] > logits[best] ? i : best;
  if (temperature <= 0)
    return best;
  for (int i = 0; i < vocabulary; ++i)
    sum += weights[i] = exp((logits[i] - logits[best]) / temperature);
  double point = uniform(state) * sum;
  for (int i = 0; i < vocabulary; ++i)
    if ((point -= weights[i]) < 0)
      return i;
  return best;
}

static void show(int byte) { putchar(byte == '\n' || (byte >= 32 && byte < 127) ? byte : '?'); }

static void generate(moe_call *call, const char *prompt, int64_t count, double temperature, uint64_t seed) {
  size_t length = strlen(prompt);
  int64_t *tokens = malloc((length + (size_t)count) * sizeof(int64_t));
  if (!tokens)
    refuse("--bytes", "there is no memory for so many");
  printf("text        prompt and %lld bytes, temperature %g, seed %llu:\n\n", (long long)count, temperature,
         (unsigned long long)seed);
  for (size_t i = 0; i < length; ++i) {
    tokens[i] = (unsigned char)prompt[i];
    show((int)tokens[i]);
  }
  double start = now();
  for (int64_t made = 0; made < count; ++made, ++length) {
    size_t window = length < context ? length : context;
    moe_tensor *logits = run(call, tokens + length - window, 1, (int64_t)window);
    int byte = choose((const float *)moe_tensor_data(logits) + (window - 1) * vocabulary, temperature, &seed);
    moe_tensor_free(logits);
    tokens[length] = byte;
    show(byte);
    fflush(stdout);
  }
  double seconds = now() - start;
  printf("\n\nspeed       %.0f tokens/s (the model has no cache: each token reads the last %d again)\n",
         (double)count / seconds, context);
  free(tokens);
}

/* The value of --NAME=VALUE; NULL if `argument` is another option. */
static const char *valueOf(const char *argument, const char *name) {
  size_t length = strlen(name);
  return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

static double numberOf(const char *text, double least, double most) {
  char *end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most))
    refuse(text, "not a number that this option takes");
  return value;
}

int main(int argc, char **argv) {
  const char *path = NULL, *eval = NULL, *logits = NULL, *value;
  const char *prompt = "class TestCase(unittest.TestCase):\n    def test_";
  double bytes = 300, temperature = 0.7, seed = 2, threads = 0;
  for (int i = 1; i < argc; ++i) {
    if ((value = valueOf(argv[i], "--eval")))
      eval = value;
    else if ((value = valueOf(argv[i], "--logits")))
      logits = value;
    else if ((value = valueOf(argv[i], "--prompt")) && *value)
      prompt = value;
    else if ((value = valueOf(argv[i], "--bytes")))
      bytes = floor(numberOf(value, 0, 1e9));
    else if ((value = valueOf(argv[i], "--temperature")))
      temperature = numberOf(value, 0, 100);
    else if ((value = valueOf(argv[i], "--seed")))
      seed = floor(numberOf(value, 0, 1e15));
    else if ((value = valueOf(argv[i], "--threads")))
      threads = floor(numberOf(value, 0, 4096));
    else if (argv[i][0] != '-' && !path)
      path = argv[i];
    else
      path = NULL, i = argc;
  }
  if (!path) {
    fprintf(stderr, "usage: bytelm_demo MODULE [--logits=FILE] [--eval=FILE] [--prompt=TEXT] [--bytes=N]\n"
                    "                   [--temperature=X] [--seed=N] [--threads=N]\n");
    return 2;
  }

  moe_runtime_options options = {sizeof(options), (int32_t)threads, 0, 0, NULL, NULL};
  moe_runtime *runtime;
  moe_module *module;
  const moe_function *function;
  moe_call *call;
  double start = now();
  check(moe_runtime_create(&options, &runtime));
  check(moe_module_load(runtime, path, NULL, 0, &module));
  check(moe_module_function(module, NULL, &function));
  check(moe_call_create(function, &call));
  printf("module      %s, loaded in %.1f ms, %d thread%s\n", path, (now() - start) * 1e3,
         (int)moe_runtime_threads(runtime), moe_runtime_threads(runtime) == 1 ? "" : "s");

  int good = 1;
  if (logits)
    good &= compareLogits(call, logits);
  if (eval)
    good &= measurePerplexity(call, eval);
  if (bytes > 0)
    generate(call, prompt, (int64_t)bytes, temperature, (uint64_t)seed);
  moe_call_free(call);
  moe_module_free(module);
  moe_runtime_free(runtime);
  return good ? 0 : 1;
}
