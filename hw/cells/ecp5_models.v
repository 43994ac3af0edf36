// Behavioural models of the ECP5 cells that Yosys has none of: MULT18X18D and DP16KD, in the modes that gradsieve and
// Yosys use.  Sources: Lattice TN1267 (sysDSP) and TN1264 (memory).  A mode that is not modelled stops the simulation.

module MULT18X18D (
  input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
  input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
  input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
  input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3, RST0, RST1, RST2, RST3,
  output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15, P14,
    P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
  parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_OUTPUT_CLK = "NONE";

  wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
  wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
  reg [17:0] a_register, b_register;
  reg [35:0] product_register;
  wire [17:0] a_in = REG_INPUTA_CLK == "NONE" ? a : a_register;
  wire [17:0] b_in = REG_INPUTB_CLK == "NONE" ? b : b_register;
  // as in hardware, the low 36 bits of the product of operands extended to 36 bits
  wire [35:0] product = {{18{SIGNEDA & a_in[17]}}, a_in} * {{18{SIGNEDB & b_in[17]}}, b_in};
  always @(posedge CLK0)
    if (CE0) begin
      a_register <= a;
      b_register <= b;
      product_register <= product;
    end
  assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
    P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = REG_OUTPUT_CLK == "NONE" ? product :
    product_register;

  always @(posedge CLK0) if (RST0) $fatal(1, "MULT18X18D: resets are not modelled");
  initial begin
    if ((REG_INPUTA_CLK != "NONE" && REG_INPUTA_CLK != "CLK0") || (REG_INPUTB_CLK != "NONE" && REG_INPUTB_CLK != "CLK0")
        || (REG_OUTPUT_CLK != "NONE" && REG_OUTPUT_CLK != "CLK0")) $fatal(1, "MULT18X18D: only CLK0 is modelled");
  end
endmodule

// Two ports on 2048 bytes of 9 bits; a port of 18 or 36 bits has byte enables in its lowest address bits for writing.
// Reading what the other port writes in the same cycle gives the complement of the old word: nobody may rely on it.
module DP16KD (
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1,
    DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1,
    DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1,
    DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1,
    DOB0
);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000";
  parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "DISABLED", INIT_DATA = "STATIC", WID = 0;
  parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0,
    INITVAL_06 = 0, INITVAL_07 = 0;
  parameter [319:0] INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0, INITVAL_0C = 0, INITVAL_0D = 0,
    INITVAL_0E = 0, INITVAL_0F = 0;
  parameter [319:0] INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0, INITVAL_14 = 0, INITVAL_15 = 0,
    INITVAL_16 = 0, INITVAL_17 = 0;
  parameter [319:0] INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0,
    INITVAL_1E = 0, INITVAL_1F = 0;
  parameter [319:0] INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0, INITVAL_24 = 0, INITVAL_25 = 0,
    INITVAL_26 = 0, INITVAL_27 = 0;
  parameter [319:0] INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D = 0,
    INITVAL_2E = 0, INITVAL_2F = 0;
  parameter [319:0] INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0,
    INITVAL_36 = 0, INITVAL_37 = 0;
  parameter [319:0] INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0, INITVAL_3C = 0, INITVAL_3D = 0,
    INITVAL_3E = 0, INITVAL_3F = 0;

  wire [13:0] ada = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] adb = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [35:0] di_a = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
    DIB3, DIB2, DIB1, DIB0, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5,
    DIA4, DIA3, DIA2, DIA1, DIA0};  // a port of 36 bits has the inputs of both
  wire [17:0] di_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4,
    DIB3, DIB2, DIB1, DIB0};
  reg [8:0] bytes [0:2047];
  reg [35:0] read_a, read_b, output_a, output_b;
  integer i;
  initial for (i = 0; i < 2048; i = i + 1) bytes[i] = 0;

  // the first byte of a port's word, and how many it has
  function [10:0] first(input [13:0] address, input integer width);
    first = width == 36 ? {address[13:5], 2'b00} : width == 18 ? {address[13:4], 1'b0} : address[13:3];
  endfunction
  function integer count(input integer width);
    count = width == 36 ? 4 : width == 18 ? 2 : 1;
  endfunction
  // the bits within a byte that a port of less than 9 bits has
  function [8:0] lanes(input [2:0] address, input integer width);
    lanes = width >= 9 ? 9'h1ff : width == 4 ? 9'h00f << {address[2], 2'b00} : width == 2 ? 9'h003 << {address[2:1],
      1'b0} :
            9'h001 << address;
  endfunction
  function [2:0] shift(input [2:0] address, input integer width);
    shift = width >= 9 ? 0 : width == 4 ? {address[2], 2'b00} : width == 2 ? {address[2:1], 1'b0} : address;
  endfunction

  wire write_a = CEA & WEA & {CSA2, CSA1, CSA0} == 0, write_b = CEB & WEB & {CSB2, CSB1, CSB0} == 0;
  wire [10:0] first_a = first(ada, DATA_WIDTH_A), first_b = first(adb, DATA_WIDTH_B);
  // words overlap where the wider port covers the byte of the narrower
  wire [10:0] mask = ~((count(DATA_WIDTH_A) > count(DATA_WIDTH_B) ? count(DATA_WIDTH_A) : count(DATA_WIDTH_B)) -
    11'd1);
  wire same = (first_a & mask) == (first_b & mask);

  task write(input [10:0] at, input [35:0] word, input [13:0] address, input integer width);
    integer n;
    for (n = 0; n < count(width); n = n + 1)
      if (width < 18 || address[n])
        bytes[at + n] <= (bytes[at + n] & ~lanes(address[2:0], width))
                         | (word[9 * n +: 9] << shift(address[2:0], width) & lanes(address[2:0], width));
  endtask
  function [35:0] read(input [10:0] at, input [2:0] address, input integer width);
    read = {bytes[at + 3], bytes[at + 2], bytes[at + 1], bytes[at]} >> shift(address, width);
  endfunction

  always @(posedge CLKA) begin
    if (write_a) write(first_a, di_a, ada, DATA_WIDTH_A);
    else if (CEA) read_a <= read(first_a, ada[2:0], DATA_WIDTH_A) ^ {36{write_b & same}};
    if (OCEA) output_a <= read_a;
    if (RSTA) $fatal(1, "DP16KD: resets are not modelled");
  end
  always @(posedge CLKB) begin
    if (write_b) write(first_b, {18'b0, di_b}, adb, DATA_WIDTH_B);
    else if (CEB) read_b <= read(first_b, adb[2:0], DATA_WIDTH_B) ^ {36{write_a & same}};
    if (OCEB) output_b <= read_b;
    if (RSTB) $fatal(1, "DP16KD: resets are not modelled");
  end
  wire [35:0] a = REGMODE_A == "OUTREG" ? output_a : read_a;
  wire [35:0] b = REGMODE_B == "OUTREG" ? output_b : read_b;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
    DOA1, DOA0} = DATA_WIDTH_B == 36 ? b[17:0] : a[17:0];
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
    DOB1, DOB0} = DATA_WIDTH_B == 36 ? b[35:18] : b[17:0];

  initial begin
    if (WRITEMODE_A != "NORMAL" || WRITEMODE_B != "NORMAL") $fatal(1, "DP16KD: only the write mode NORMAL is modelled");
    if (CLKAMUX != "CLKA" || CLKBMUX != "CLKB") $fatal(1, "DP16KD: inverted clocks are not modelled");
  end
endmodule
