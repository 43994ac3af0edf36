// An engine of gradsieve in a design of your own: what it reads waits in a FIFO in front of it.
//
// ENGINE is the name of the engine's top module and WIDTH the data bits of its streams; lint.py
// defines both.  In a design for one engine, write them out.

`default_nettype none

module top (
    input  wire                clk,
    input  wire                rst,  // synchronous, active high

    // AXI4-Stream: weights, masks and tape in, results out
    input  wire [`WIDTH-1:0]   in_tdata,
    input  wire                in_tlast,
    input  wire                in_tvalid,
    output wire                in_tready,
    output wire [`WIDTH-1:0]   out_tdata,
    output wire [`WIDTH/8-1:0] out_tkeep,
    output wire                out_tlast,
    output wire                out_tvalid,
    input  wire                out_tready,

    // AXI4-Lite: registers
    input  wire [7:0]          axil_awaddr,
    input  wire                axil_awvalid,
    output wire                axil_awready,
    input  wire [31:0]         axil_wdata,
    input  wire [3:0]          axil_wstrb,
    input  wire                axil_wvalid,
    output wire                axil_wready,
    output wire [1:0]          axil_bresp,
    output wire                axil_bvalid,
    input  wire                axil_bready,
    input  wire [7:0]          axil_araddr,
    input  wire                axil_arvalid,
    output wire                axil_arready,
    output wire [31:0]         axil_rdata,
    output wire [1:0]          axil_rresp,
    output wire                axil_rvalid,
    input  wire                axil_rready
);

    wire [`WIDTH-1:0] fifo_tdata;
    wire              fifo_tlast, fifo_tvalid, fifo_tready;

    fifo #(.WIDTH(`WIDTH + 1), .DEPTH_BITS(4)) in_front (
        .clk(clk),
        .rst(rst),
        .in_data({in_tlast, in_tdata}),
        .in_valid(in_tvalid),
        .in_ready(in_tready),
        .out_data({fifo_tlast, fifo_tdata}),
        .out_valid(fifo_tvalid),
        .out_ready(fifo_tready)
    );

    `ENGINE engine (
        .clk(clk),
        .rst(rst),
        .s_axis_tdata(fifo_tdata),
        .s_axis_tkeep({`WIDTH/8{1'b1}}),  // every beat is whole
        .s_axis_tlast(fifo_tlast),
        .s_axis_tvalid(fifo_tvalid),
        .s_axis_tready(fifo_tready),
        .m_axis_tdata(out_tdata),
        .m_axis_tkeep(out_tkeep),
        .m_axis_tlast(out_tlast),
        .m_axis_tvalid(out_tvalid),
        .m_axis_tready(out_tready),
        .s_axil_awaddr(axil_awaddr),
        .s_axil_awprot(3'b000),
        .s_axil_awvalid(axil_awvalid),
        .s_axil_awready(axil_awready),
        .s_axil_wdata(axil_wdata),
        .s_axil_wstrb(axil_wstrb),
        .s_axil_wvalid(axil_wvalid),
        .s_axil_wready(axil_wready),
        .s_axil_bresp(axil_bresp),
        .s_axil_bvalid(axil_bvalid),
        .s_axil_bready(axil_bready),
        .s_axil_araddr(axil_araddr),
        .s_axil_arprot(3'b000),
        .s_axil_arvalid(axil_arvalid),
        .s_axil_arready(axil_arready),
        .s_axil_rdata(axil_rdata),
        .s_axil_rresp(axil_rresp),
        .s_axil_rvalid(axil_rvalid),
        .s_axil_rready(axil_rready)
    );

endmodule
