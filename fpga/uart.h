// The host's end of a serial line to a Verilated design: 8N1, advanced a clock cycle at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

namespace gradsieve {

class Uart {
   public:
    explicit Uart(unsigned divisor) : divisor_(divisor) {}

    // Queues a byte for the design.
    void send(uint8_t byte) { to_send_.push_back(byte); }

    // Bytes from the design, oldest first; who takes them also pops them.
    std::deque<uint8_t>& received() { return received_; }

    // Bytes queued and not sent completely.
    size_t unsent() const { return to_send_.size() + (bits_left_ != 0); }

    // Bytes that came without a stop bit.
    uint64_t framing_errors() const { return framing_errors_; }

    // One clock cycle: takes the level of the design's tx and returns that of its rx.
    bool step(bool tx) {
        receive(tx);
        return transmit();
    }

   private:
    static constexpr int kFrameBits = 10;

    bool transmit() {
        if (send_ticks_) {
            --send_ticks_;
            return level_;
        }
        if (bits_left_) {
            --bits_left_;
            level_ = frame_ & 1;
            frame_ >>= 1;
            send_ticks_ = divisor_ - 1;
        } else if (!to_send_.empty()) {
            frame_ = 0x100u | to_send_.front();  // data bits and stop bit; the start bit goes out now
            to_send_.pop_front();
            bits_left_ = kFrameBits - 1;
            level_ = false;
            send_ticks_ = divisor_ - 1;
        }
        return level_;
    }

    void receive(bool level) {
        if (!bits_due_) {
            if (!level && idle_) {
                bits_due_ = kFrameBits;
                receive_ticks_ = divisor_ / 2;
            }
            idle_ = level;
            return;
        }
        if (--receive_ticks_) return;
        receive_ticks_ = divisor_;
        --bits_due_;
        if (bits_due_ == kFrameBits - 1) {
            if (level) bits_due_ = 0, idle_ = true;  // no start bit but a glitch
        } else if (bits_due_) {
            byte_ = static_cast<uint8_t>(byte_ >> 1 | (level ? 0x80 : 0));
        } else {
            idle_ = level;
            if (level) {
                received_.push_back(byte_);
            } else {
                ++framing_errors_;
            }
        }
    }

    const unsigned divisor_;
    std::deque<uint8_t> to_send_, received_;
    uint64_t framing_errors_ = 0;
    unsigned frame_ = 0, send_ticks_ = 0, receive_ticks_ = 0;
    int bits_left_ = 0, bits_due_ = 0;
    uint8_t byte_ = 0;
    bool level_ = true, idle_ = true;
};

}  // namespace gradsieve
