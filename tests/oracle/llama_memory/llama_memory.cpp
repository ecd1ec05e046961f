// What llama-fit-params works out, case after case and in bytes: the placement that --fit chooses
// and what each buffer type would hold. Reads one case a line, prints one JSON object a case.
//
// A case: MODEL N_CTX N_BATCH N_UBATCH N_SEQ N_OUTPUTS EMBEDDING UNIFIED FLASH CACHE_TYPE NGL MARGIN_BYTES [FREE_BYTES...]
// FLASH is -1 (auto), 0 or 1; NGL -1 lets --fit choose; each FREE_BYTES is one stand-in GPU.

#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "../src/llama-ext.h"
#include "fit.h"
#include "ggml-backend-impl.h"
#include "llama.h"
#include "stand_in_gpu.h"

namespace {

std::string messages;

void remember(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR || strstr(text, "output buffer size") ||
        strstr(text, "Flash Attention was auto")) {
        messages += text;
    }
}

std::string quoted(const std::string & text) {
    std::string found = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') found += '\\';
        if (static_cast<unsigned char>(c) < 0x20) c = ' ';
        found += c;
    }
    return found + '"';
}

struct request {
    std::string model, cache_type;
    uint32_t n_ctx, n_batch, n_ubatch, n_seq, n_outputs;
    int embedding, unified, flash, ngl;
    size_t margin;
    std::vector<size_t> free_bytes;
};

ggml_type type_named(const std::string & name) {
    for (int i = 0; i < GGML_TYPE_COUNT; i++) {
        const char * known = ggml_type_name(static_cast<ggml_type>(i));
        if (known && name == known) return static_cast<ggml_type>(i);
    }
    return GGML_TYPE_COUNT;
}

std::string buffers(const llama_context * ctx) {
    std::string found = "{";
    for (const auto & [buft, held] : llama_get_memory_breakdown(ctx)) {
        if (found.size() > 1) found += ", ";
        found += quoted(ggml_backend_buft_name(buft)) + ": [" + std::to_string(held.model) + ", " +
                 std::to_string(held.context) + ", " + std::to_string(held.compute) + "]";
    }
    return found + "}";
}

std::string answer(const request & asked) {
    std::vector<ggml_backend_dev_t> devices;
    for (size_t i = 0; i < asked.free_bytes.size(); i++) {
        set_stand_in_memory(i, asked.free_bytes[i]);
        devices.push_back(stand_in_gpu(i));
    }
    devices.push_back(nullptr);
    llama_model_params mparams = llama_model_default_params();
    mparams.devices = devices.data();
    mparams.load_mode = LLAMA_LOAD_MODE_NONE;
    llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx = asked.n_ctx;
    cparams.n_batch = asked.n_batch;
    cparams.n_ubatch = asked.n_ubatch;
    cparams.n_seq_max = asked.n_seq;
    cparams.n_outputs_max = asked.n_outputs;
    cparams.flash_attn_type = static_cast<llama_flash_attn_type>(asked.flash);
    cparams.kv_unified = asked.unified;
    cparams.embeddings = asked.embedding;
    cparams.swa_full = false;
    cparams.type_k = cparams.type_v = type_named(asked.cache_type);

    std::vector<float> split(llama_max_devices(), 0.0f);
    std::vector<llama_model_tensor_buft_override> overrides(llama_max_tensor_buft_overrides(),
                                                            {nullptr, nullptr});
    std::vector<size_t> margins(llama_max_devices(), asked.margin);
    int status = 0;
    if (asked.ngl >= 0) {
        mparams.n_gpu_layers = asked.ngl;
    } else if (!asked.free_bytes.empty()) {
        status = common_fit_params(asked.model.c_str(), &mparams, &cparams, split.data(),
                                   overrides.data(), margins.data(), 4096, nullptr,
                                   GGML_LOG_LEVEL_ERROR);
    }
    messages.clear();
    mparams.no_alloc = true;
    std::string found = "{\"status\": " + std::to_string(status) +
                        ", \"ngl\": " + std::to_string(mparams.n_gpu_layers) + ", \"split\": [";
    for (size_t i = 0; i < asked.free_bytes.size(); i++) {
        found += (i ? ", " : "") + std::to_string(static_cast<int>(split[i]));
    }
    found += "], \"overrides\": [";
    for (size_t i = 0; overrides[i].pattern; i++) {
        found += (i ? ", [" : "[") + quoted(overrides[i].pattern) + ", " +
                 quoted(ggml_backend_buft_name(overrides[i].buft)) + "]";
    }
    found += "]";
    llama_model * model = llama_model_load_from_file(asked.model.c_str(), mparams);
    llama_context * ctx = model ? llama_init_from_model(model, cparams) : nullptr;
    if (ctx) found += ", \"buffers\": " + buffers(ctx);
    llama_free(ctx);
    if (model) llama_model_free(model);
    return found + ", \"log\": " + quoted(messages) + "}";
}

}  // namespace

int main() {
    llama_log_set(remember, nullptr);
    llama_backend_init();
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        request asked;
        words >> asked.model >> asked.n_ctx >> asked.n_batch >> asked.n_ubatch >> asked.n_seq >>
            asked.n_outputs >> asked.embedding >> asked.unified >> asked.flash >> asked.cache_type >> asked.ngl >> asked.margin;
        for (size_t free_bytes; words >> free_bytes;) asked.free_bytes.push_back(free_bytes);
        std::cout << answer(asked) << std::endl;
    }
}
