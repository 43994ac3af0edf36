// A Verilated board top (ports clk, rst, rx, tx, leds) and the far end of its serial line, many clock cycles a call.
//
// Compiled once a design, with -DBOARD=<Verilated class> -DBOARD_HEADER="<its header>".
#include <cstddef>
#include <cstdint>
#include <memory>

#include BOARD_HEADER
#include "uart.h"
#include "verilated.h"

namespace {

struct Board {
    VerilatedContext context;
    std::unique_ptr<BOARD> top;
    gradsieve::Uart uart;
    uint64_t quiet = 0;  // cycles since the serial line or a stream moved

    explicit Board(unsigned divisor) : top(std::make_unique<BOARD>(&context)), uart(divisor) { top->rx = 1; }

    // `busy_leds`: the bits of `leds` that show that something moves.
    void tick(uint8_t busy_leds) {
        top->clk = 0;
        top->eval();
        top->rx = uart.step(top->tx);
        top->clk = 1;
        top->eval();
        quiet = top->leds & busy_leds || !top->tx || !top->rx || uart.unsent() ? 0 : quiet + 1;
    }
};

}  // namespace

extern "C" {

Board* board_new(unsigned divisor) { return new Board(divisor); }

void board_delete(Board* b) {
    b->top->final();
    delete b;
}

// The reset button, held for `cycles`.
void board_reset(Board* b, uint64_t cycles) {
    b->top->rst = 1;
    for (uint64_t n = 0; n < cycles; ++n) b->tick(0);
    b->top->rst = 0;
    b->quiet = 0;
}

// Queues `size` bytes for the board, runs `cycles`, and takes up to `room` bytes of the board's; returns their number.
size_t board_run(Board* b, const uint8_t* in, size_t size, uint8_t* out, size_t room, uint64_t cycles,
                 uint8_t busy_leds) {
    for (size_t n = 0; n < size; ++n) b->uart.send(in[n]);
    for (uint64_t n = 0; n < cycles; ++n) b->tick(busy_leds);
    auto& received = b->uart.received();
    size_t count = 0;
    for (; count < room && !received.empty(); received.pop_front()) out[count++] = received.front();
    return count;
}

// Bytes that the line has not yet brought to the board.
size_t board_unsent(const Board* b) { return b->uart.unsent(); }

uint64_t board_quiet(const Board* b) { return b->quiet; }

unsigned board_leds(const Board* b) { return b->top->leds; }

}  // extern "C"
