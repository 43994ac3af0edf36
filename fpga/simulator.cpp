// The Verilated engine behind a C interface that moves whole packets: no call a clock cycle.
//
// Compiled once a design, with -DENGINE=<Verilated class> -DENGINE_HEADER="<its header>" -DSTREAM_BYTES=<bytes of a beat>.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include ENGINE_HEADER
#include "verilated.h"

namespace {

constexpr int kRegisterTimeout = 1000;  // cycles: a register answers within a few

struct Simulator {
    VerilatedContext context;
    std::unique_ptr<ENGINE> top;
    uint64_t cycles = 0;
    uint64_t random = 1;
    uint32_t in_idle = 0, out_stall = 0;  // of 65536 cycles

    Simulator() : top(std::make_unique<ENGINE>(&context)) {}

    uint32_t draw() {  // xorshift64*, for the idle and backpressure generators
        random ^= random >> 12, random ^= random << 25, random ^= random >> 27;
        return static_cast<uint32_t>((random * 0x2545F4914F6CDD1DULL) >> 48);
    }

    void settle() {
        top->clk = 0;
        top->eval();
    }

    void tick() {
        top->clk = 1;
        top->eval();
        ++cycles;
    }
};

template <typename Word>
void to_port(Word& port, const uint8_t* bytes) {
    std::memcpy(&port, bytes, STREAM_BYTES);
}

template <typename Word>
void from_port(uint8_t* bytes, const Word& port) {
    std::memcpy(bytes, &port, STREAM_BYTES);
}

}  // namespace

extern "C" {

Simulator* simulator_new() { return new Simulator; }

void simulator_delete(Simulator* s) {
    s->top->final();
    delete s;
}

uint64_t simulator_cycles(const Simulator* s) { return s->cycles; }

// Idle beats on the way in and backpressure on the way out, in parts of 65536 cycles.
void simulator_disturb(Simulator* s, uint64_t seed, uint32_t in_idle, uint32_t out_stall) {
    s->random = seed ? seed : 1;
    s->in_idle = in_idle;
    s->out_stall = out_stall;
}

void simulator_reset(Simulator* s) {
    ENGINE& t = *s->top;
    t.s_axil_awvalid = t.s_axil_wvalid = t.s_axil_arvalid = 0;
    t.s_axil_bready = t.s_axil_rready = 1;
    t.s_axis_tvalid = t.m_axis_tready = 0;
    t.rst = 1;
    for (int n = 0; n < 2; ++n) s->settle(), s->tick();
    t.rst = 0;
    for (int n = 0; n < 2; ++n) s->settle(), s->tick();  // the engine registers its reset
}

// Returns the response (0: OKAY), or -1 if none came.
int simulator_write(Simulator* s, uint32_t address, uint32_t data) {
    ENGINE& t = *s->top;
    t.s_axil_awaddr = address;
    t.s_axil_wdata = data;
    t.s_axil_wstrb = 0xF;
    t.s_axil_awvalid = t.s_axil_wvalid = 1;
    for (int n = 0; n < kRegisterTimeout; ++n) {
        s->settle();
        const bool address_taken = t.s_axil_awvalid && t.s_axil_awready;
        const bool data_taken = t.s_axil_wvalid && t.s_axil_wready;
        const bool answered = t.s_axil_bvalid;
        const int response = t.s_axil_bresp;
        s->tick();
        if (address_taken) t.s_axil_awvalid = 0;
        if (data_taken) t.s_axil_wvalid = 0;
        if (answered) return response;
    }
    return -1;
}

int simulator_read(Simulator* s, uint32_t address, uint32_t* data) {
    ENGINE& t = *s->top;
    t.s_axil_araddr = address;
    t.s_axil_arvalid = 1;
    for (int n = 0; n < kRegisterTimeout; ++n) {
        s->settle();
        const bool taken = t.s_axil_arvalid && t.s_axil_arready;
        const bool answered = t.s_axil_rvalid;
        const int response = t.s_axil_rresp;
        *data = t.s_axil_rdata;
        s->tick();
        if (taken) t.s_axil_arvalid = 0;
        if (answered) return response;
    }
    return -1;
}

// Sends `in_size` bytes as beats, the last with TLAST if `end_packet`, and takes beats until one with TLAST if
// `await_packet`, both at once.  Gives up after `max_cycles` cycles in which no beat moved either way.
// *sent and *received count bytes; *ended tells that TLAST came.  Returns 0 when done, 1 on giving up, 2 if `out` is full.
int simulator_stream(Simulator* s, const uint8_t* in, size_t in_size, int end_packet, uint8_t* out, size_t out_size,
                     int await_packet, uint64_t max_cycles, size_t* sent, size_t* received, int* ended) {
    ENGINE& t = *s->top;
    *sent = *received = 0;
    *ended = 0;
    bool offered = false;
    uint64_t quiet = 0;
    while (*sent < in_size || (await_packet && !*ended)) {
        if (quiet++ >= max_cycles) {
            t.s_axis_tvalid = t.m_axis_tready = 0;
            return 1;
        }
        if (!offered && *sent < in_size && !(s->in_idle && (s->draw() & 0xFFFF) < s->in_idle)) {
            to_port(t.s_axis_tdata, in + *sent);
            t.s_axis_tkeep = ~0ULL >> (64 - STREAM_BYTES);
            t.s_axis_tlast = end_packet && *sent + STREAM_BYTES >= in_size;
            offered = true;
        }
        t.s_axis_tvalid = offered;
        t.m_axis_tready = await_packet && !*ended && !(s->out_stall && (s->draw() & 0xFFFF) < s->out_stall);
        s->settle();
        const bool in_moves = offered && t.s_axis_tready;
        if (t.m_axis_tvalid && t.m_axis_tready) {
            quiet = 0;
            *ended = t.m_axis_tlast;
            if (t.m_axis_tkeep) {  // the closing beat of a packet that was cut off has no bytes
                if (*received + STREAM_BYTES > out_size) return 2;
                from_port(out + *received, t.m_axis_tdata);
                *received += STREAM_BYTES;
            }
        }
        s->tick();
        if (in_moves) {
            quiet = 0;
            offered = false;
            *sent += STREAM_BYTES;
        }
    }
    t.s_axis_tvalid = t.m_axis_tready = 0;
    return 0;
}

// Lets the clock run.
void simulator_wait(Simulator* s, uint64_t cycles) {
    for (uint64_t n = 0; n < cycles; ++n) s->settle(), s->tick();
}

}  // extern "C"
