#include "stand_in_gpu.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "ggml.h"

namespace {

struct device_context {
    int device = 0;
    int op_offload_min_batch_size = 32;  // ggml-cuda.cu, GGML_OP_OFFLOAD_MIN_BATCH
    size_t free_bytes = 0;
    std::string name;
};

device_context contexts[MAX_STAND_INS];
ggml_backend_device devices[MAX_STAND_INS];
ggml_backend_buffer_type buffer_types[MAX_STAND_INS];

// What the rules cut out of the CUDA backend ask of it: a GPU of the Ampere generation.
using ggml_backend_cuda_device_context = device_context;
using ggml_backend_cuda_buffer_type_context = device_context;
struct cuda_device_info {
    int cc = 800;
    bool integrated = false;
};
struct cuda_info {
    cuda_device_info devices[MAX_STAND_INS];
};
const cuda_info & ggml_cuda_info() {
    static const cuda_info info;
    return info;
}
bool ggml_backend_buft_is_cuda(ggml_backend_buffer_type_t buft) {
    return std::any_of(buffer_types, buffer_types + MAX_STAND_INS,
                       [&](auto & own) { return buft == &own; });
}
bool turing_mma_available(int cc) { return cc >= 750; }
bool volta_mma_available(int cc) { return cc >= 700 && cc < 750; }
bool amd_mfma_available(int) { return false; }
bool amd_wmma_available(int) { return false; }
bool ggml_cuda_flash_attn_ext_mma_f16_may_use_sparse(int64_t, int64_t, int, int) { return false; }
bool ggml_cuda_flash_attn_ext_mma_f16_shall_use_sparse(int, const ggml_tensor *, int, int) {
    return false;
}
const void * ggml_cuda_get_fattn_vec_case(int64_t, ggml_type, ggml_type) {
    return &contexts;  // every case is compiled in
}
bool ggml_cuda_lightning_indexer_supported(int, const ggml_tensor *) { return true; }
constexpr int64_t MATRIX_ROW_PADDING = 512;     // ggml-cuda/common.cuh
constexpr int64_t FATTN_KQ_STRIDE = 256;        // ggml-cuda/fattn-common.cuh
constexpr int GGML_CUDA_CC_ADA_LOVELACE = 890;  // ggml-cuda/common.cuh
constexpr int64_t QK_K = 256;                   // ggml-common.h
#define FLASH_ATTN_AVAILABLE
#define GGML_CUDA_USE_CUB
#include "cuda_rules.inc"

device_context & of(ggml_backend_dev_t dev) {
    return *static_cast<device_context *>(dev->context);
}

// Buffers: addresses without memory behind them.
void * const NOWHERE = reinterpret_cast<void *>(0x1000);

struct storage {
    void * base;
    size_t size;
};

void free_buffer(ggml_backend_buffer_t buffer) {
    auto * held = static_cast<storage *>(buffer->context);
    if (held->base != NOWHERE) munmap(held->base, held->size);
    delete held;
}
void * base_of(ggml_backend_buffer_t buffer) {
    return static_cast<storage *>(buffer->context)->base;
}
void memset_tensor(ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {}
void set_tensor(ggml_backend_buffer_t, ggml_tensor *, const void *, size_t, size_t) {}
void get_tensor(ggml_backend_buffer_t, const ggml_tensor *, void * data, size_t, size_t size) {
    memset(data, 0, size);
}
void clear(ggml_backend_buffer_t, uint8_t) {}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    static const ggml_backend_buffer_i interface = {
        free_buffer, base_of, nullptr, memset_tensor, set_tensor, get_tensor,
        nullptr,     nullptr, nullptr, clear,         nullptr,
    };
    void * base = NOWHERE;
    if (size) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        base = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (base == MAP_FAILED) return nullptr;
    }
    return ggml_backend_buffer_init(buft, interface, new storage{base, size}, size);
}
const char * buffer_type_name(ggml_backend_buffer_type_t buft) {
    return static_cast<device_context *>(buft->context)->name.c_str();
}

// The host's pinned buffers, one type for all GPUs.
const char * host_name(ggml_backend_buffer_type_t) { return "Host"; }
ggml_backend_buffer_type_t host_buffer_type(ggml_backend_dev_t) {
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type found = *ggml_backend_cpu_buffer_type();
        found.iface.get_name = host_name;
        found.device = &devices[0];
        return found;
    }();
    return &type;
}

// Backend: a stream that computes nothing.
const char * backend_name(ggml_backend_t backend) { return of(backend->device).name.c_str(); }
void free_backend(ggml_backend_t backend) { delete backend; }
void synchronize(ggml_backend_t) {}
ggml_status graph_compute(ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_SUCCESS; }
void event_record(ggml_backend_t, ggml_backend_event_t) {}
void event_wait(ggml_backend_t, ggml_backend_event_t) {}

ggml_backend_t init_backend(ggml_backend_dev_t dev, const char *) {
    static ggml_guid guid = {0x57, 0x41};
    ggml_backend_i interface = {};
    interface.get_name = backend_name;
    interface.free = free_backend;
    interface.synchronize = synchronize;
    interface.graph_compute = graph_compute;
    interface.event_record = event_record;
    interface.event_wait = event_wait;
    return new ggml_backend{&guid, interface, dev, nullptr};
}

// Device.
const char * device_name(ggml_backend_dev_t dev) { return of(dev).name.c_str(); }
void device_memory(ggml_backend_dev_t dev, size_t * free, size_t * total) {
    *free = *total = of(dev).free_bytes;
}
enum ggml_backend_dev_type device_type(ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; }
void device_props(ggml_backend_dev_t dev, ggml_backend_dev_props * props) {
    props->name = props->description = device_name(dev);
    props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    props->device_id = nullptr;
    device_memory(dev, &props->memory_free, &props->memory_total);
    props->caps = {/* async */ true, /* host_buffer */ true, /* buffer_from_host_ptr */ false,
                   /* events */ true};
}
ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t dev) {
    return &buffer_types[of(dev).device];
}
bool supports_buft(ggml_backend_dev_t dev, ggml_backend_buffer_type_t buft) {
    return buft == device_buffer_type(dev);
}
ggml_backend_event_t event_new(ggml_backend_dev_t dev) {
    return new ggml_backend_event{dev, nullptr};
}
void event_free(ggml_backend_dev_t, ggml_backend_event_t event) { delete event; }
void event_synchronize(ggml_backend_dev_t, ggml_backend_event_t) {}

// Registry.
const char * registry_name(ggml_backend_reg_t) { return "STANDIN"; }
size_t device_count(ggml_backend_reg_t) { return MAX_STAND_INS; }
ggml_backend_dev_t device_at(ggml_backend_reg_t, size_t index) { return &devices[index]; }
void * proc_address(ggml_backend_reg_t, const char *) { return nullptr; }
ggml_backend_reg registry = {
    GGML_BACKEND_API_VERSION, {registry_name, device_count, device_at, proc_address}, nullptr};

const bool initialized = [] {
    for (int i = 0; i < MAX_STAND_INS; i++) {
        contexts[i].device = i;
        contexts[i].name = "GPU" + std::to_string(i);
        buffer_types[i].iface = {
            buffer_type_name, alloc_buffer, nullptr, ggml_backend_cuda_buffer_type_get_alignment,
            nullptr, ggml_backend_cuda_buffer_type_get_alloc_size, nullptr, nullptr,
        };
        buffer_types[i].device = &devices[i];
        buffer_types[i].context = &contexts[i];
        devices[i].iface = {
            device_name, device_name, device_memory, device_type, device_props, init_backend,
            device_buffer_type, host_buffer_type, nullptr, ggml_backend_cuda_device_supports_op,
            supports_buft, ggml_backend_cuda_device_offload_op, event_new, event_free,
            event_synchronize,
        };
        devices[i].reg = &registry;
        devices[i].context = &contexts[i];
    }
    return true;
}();

}  // namespace

ggml_backend_dev_t stand_in_gpu(int index) { return &devices[index]; }
void set_stand_in_memory(int index, size_t free_bytes) { contexts[index].free_bytes = free_bytes; }
