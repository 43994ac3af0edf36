// 2**DEPTH_BITS words, a word a cycle in and out.
module fifo #(
    parameter WIDTH = 8,
    parameter DEPTH_BITS = 4
) (
    input  wire             clk,
    input  wire             rst,
    input  wire [WIDTH-1:0] in_data,
    input  wire             in_valid,
    output wire             in_ready,
    output wire [WIDTH-1:0] out_data,
    output wire             out_valid,
    input  wire             out_ready
);

    reg [WIDTH-1:0]    words [0:(1 << DEPTH_BITS)-1];
    reg [DEPTH_BITS:0] written, read;  // one bit more than an address tells full from empty
    wire               full = written == {~read[DEPTH_BITS], read[DEPTH_BITS-1:0]};

    assign in_ready = !full;
    assign out_valid = written != read;
    assign out_data = words[read[DEPTH_BITS-1:0]];

    always @(posedge clk) begin
        if (in_valid && in_ready) begin
            words[written[DEPTH_BITS-1:0]] <= in_data;
            written <= written + 1'b1;
        end
        if (out_valid && out_ready)
            read <= read + 1'b1;
        if (rst) begin
            written <= 0;
            read <= 0;
        end
    end

endmodule
