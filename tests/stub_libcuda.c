// A stand-in for NVIDIA's driver, libcuda.so.1: every call fails with the status that STUB_STATUS names, but for
// those that ask for versions and, where STUB_STATUS is 0, for devices. It shows what CuPy and nnx make of each.
#include <stdlib.h>
#include <string.h>

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

static int status(void) { return number("STUB_STATUS", 100); }

int cuDriverGetVersion(int *version) {
  *version = number("STUB_VERSION", 13000);
  return 0;
}

int cuInit(unsigned flags) {
  (void)flags;
  return status();
}

int cuDeviceGetCount(int *count) {
  *count = status() ? 0 : 1;
  return status();
}

int cuDeviceGetName(char *name, int length, int device) {
  (void)device;
  strncpy(name, "Stub", (size_t)length);
  return status();
}

int cuGetErrorString(int error, const char **text) {
  (void)error;
  *text = "said by the stub";
  return 0;
}

int cuGetErrorName(int error, const char **text) {
  (void)error;
  *text = "STUB";
  return 0;
}

// Whatever else the runtime looks up: a driver that answered so far, and then does not.
static int fails(void) { return status() ? status() : 999; }

int cuGetExportTable(const void **table, const void *id) {
  (void)table, (void)id;
  return fails();
}

int cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long long flags, int *found) {
  static const struct {
    const char *name;
    void *function;
  } known[] = {
      {"cuDriverGetVersion", (void *)cuDriverGetVersion},   {"cuInit", (void *)cuInit},
      {"cuDeviceGetCount", (void *)cuDeviceGetCount},       {"cuDeviceGetName", (void *)cuDeviceGetName},
      {"cuGetErrorString", (void *)cuGetErrorString},       {"cuGetErrorName", (void *)cuGetErrorName},
      {"cuGetProcAddress", (void *)cuGetProcAddress_v2},
  };
  (void)version, (void)flags;
  *function = (void *)fails;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(symbol, known[i].name)) *function = known[i].function;
  if (found) *found = 0;
  return 0;
}

int cuGetProcAddress(const char *symbol, void **function, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, 0);
}
