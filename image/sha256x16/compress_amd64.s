// SHA-256 (FIPS 180-4, section 6.2) of sixteen streams at a time. Each 32-bit element of a vector register belongs to one stream: element i
// of Z0…Z7 is a word of stream i's state, of Z16…Z31 a word of its block.

#include "textflag.h"

// Bytes of each word in reverse: blocks are big-endian.
DATA ·swap+0(SB)/8, $0x0405060700010203
DATA ·swap+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL ·swap(SB), RODATA|NOPTR, $16

// ROUND is one round with the block's word w and the round's constant, which is at offset k of (CX). What it computes is in h, which is a of the next round, and
// in d, which is e then. The function 0xca of three bits is "if the first then the second, else the third", 0xe8 is the majority, 0x96 exclusive or.
#define ROUND(a, b, c, d, e, f, g, h, w, k) \
	VPADDD.BCST k(CX), h, h          \
	VPADDD      w, h, h              \
	VPRORD      $6, e, Z8            \
	VPRORD      $11, e, Z9           \
	VPRORD      $25, e, Z10          \
	VMOVDQA32   e, Z11               \
	VPTERNLOGD  $0xca, g, f, Z11     \
	VPTERNLOGD  $0x96, Z10, Z9, Z8   \
	VPADDD      Z11, h, h            \
	VPADDD      Z8, h, h             \
	VPADDD      h, d, d              \
	VPRORD      $2, a, Z12           \
	VPRORD      $13, a, Z13          \
	VPRORD      $22, a, Z14          \
	VMOVDQA32   a, Z15               \
	VPTERNLOGD  $0xe8, c, b, Z15     \
	VPTERNLOGD  $0x96, Z14, Z13, Z12 \
	VPADDD      Z15, h, h            \
	VPADDD      Z12, h, h

// EXPAND makes of the block's word w the one of sixteen rounds later; w1, w9 and w14 are the words of that many rounds after it.
#define EXPAND(w, w1, w9, w14) \
	VPRORD     $7, w1, Z8          \
	VPRORD     $18, w1, Z9         \
	VPSRLD     $3, w1, Z10         \
	VPTERNLOGD $0x96, Z10, Z9, Z8  \
	VPRORD     $17, w14, Z11       \
	VPRORD     $19, w14, Z12       \
	VPSRLD     $10, w14, Z13       \
	VPTERNLOGD $0x96, Z13, Z12, Z11 \
	VPADDD     w9, w, w            \
	VPADDD     Z8, w, w            \
	VPADDD     Z11, w, w

// LOAD reads the next 64 bytes of stream i.
#define LOAD(i, z) \
	MOVQ      (i*8)(SI), R8       \
	VMOVDQU32 (R8)(DX*1), z       \
	VPSHUFB   Z8, z, z

// INTERLEAVE makes of four streams' blocks four vectors that have, in each 128 bits, the same word of all four streams: r0 gets words 0, 4, 8 and 12,
// r1 words 1, 5, 9 and 13, and so on.
#define INTERLEAVE(r0, r1, r2, r3, x0, x1, x2, x3) \
	VPUNPCKLDQ  r1, r0, x0 \
	VPUNPCKHDQ  r1, r0, x1 \
	VPUNPCKLDQ  r3, r2, x2 \
	VPUNPCKHDQ  r3, r2, x3 \
	VPUNPCKLQDQ x2, x0, r0 \
	VPUNPCKHQDQ x2, x0, r1 \
	VPUNPCKLQDQ x3, x1, r2 \
	VPUNPCKHQDQ x3, x1, r3

// GATHER takes what INTERLEAVE left of words j, j+4, j+8 and j+12, in a for streams 0 to 3, in b for 4 to 7 and so on, and makes a vector of each word.
#define GATHER(a, b, c, d, x0, x1, x2, x3) \
	VSHUFI32X4 $0x44, b, a, x0   \
	VSHUFI32X4 $0xee, b, a, x1   \
	VSHUFI32X4 $0x44, d, c, x2   \
	VSHUFI32X4 $0xee, d, c, x3   \
	VSHUFI32X4 $0x88, x2, x0, a  \
	VSHUFI32X4 $0xdd, x2, x0, b  \
	VSHUFI32X4 $0x88, x3, x1, c  \
	VSHUFI32X4 $0xdd, x3, x1, d

// ADD adds a word of the state before the block, and keeps the sum for the streams of the mask.
#define ADD(i, z) \
	VPADDD    (i*64)(DI), z, z   \
	VMOVDQU32 z, K1, (i*64)(DI)

// func compress(state *[8][Streams]uint32, data *[Streams]*byte, constants *[64]uint32, blocks int, streams uint16)
TEXT ·compress(SB), NOSPLIT, $0-34
	MOVQ    state+0(FP), DI
	MOVQ    data+8(FP), SI
	MOVQ    blocks+24(FP), BX
	MOVWLZX streams+32(FP), AX
	KMOVW   AX, K1
	XORQ    DX, DX

block:
	TESTQ BX, BX
	JZ    done
	VBROADCASTI32X4 ·swap(SB), Z8

	LOAD(0, Z16)
	LOAD(1, Z17)
	LOAD(2, Z18)
	LOAD(3, Z19)
	LOAD(4, Z20)
	LOAD(5, Z21)
	LOAD(6, Z22)
	LOAD(7, Z23)
	LOAD(8, Z24)
	LOAD(9, Z25)
	LOAD(10, Z26)
	LOAD(11, Z27)
	LOAD(12, Z28)
	LOAD(13, Z29)
	LOAD(14, Z30)
	LOAD(15, Z31)

	INTERLEAVE(Z16, Z17, Z18, Z19, Z0, Z1, Z2, Z3)
	INTERLEAVE(Z20, Z21, Z22, Z23, Z4, Z5, Z6, Z7)
	INTERLEAVE(Z24, Z25, Z26, Z27, Z8, Z9, Z10, Z11)
	INTERLEAVE(Z28, Z29, Z30, Z31, Z12, Z13, Z14, Z15)

	GATHER(Z16, Z20, Z24, Z28, Z0, Z1, Z2, Z3)
	GATHER(Z17, Z21, Z25, Z29, Z4, Z5, Z6, Z7)
	GATHER(Z18, Z22, Z26, Z30, Z8, Z9, Z10, Z11)
	GATHER(Z19, Z23, Z27, Z31, Z12, Z13, Z14, Z15)

	// Word 4*L+j is in Z(16+4*L+j) now.

	VMOVDQU32 (0*64)(DI), Z0
	VMOVDQU32 (1*64)(DI), Z1
	VMOVDQU32 (2*64)(DI), Z2
	VMOVDQU32 (3*64)(DI), Z3
	VMOVDQU32 (4*64)(DI), Z4
	VMOVDQU32 (5*64)(DI), Z5
	VMOVDQU32 (6*64)(DI), Z6
	VMOVDQU32 (7*64)(DI), Z7
	MOVQ  constants+16(FP), CX
	MOVQ  $3, R9

rounds:
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 0)
	EXPAND(Z16, Z17, Z25, Z30)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 4)
	EXPAND(Z17, Z18, Z26, Z31)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 8)
	EXPAND(Z18, Z19, Z27, Z16)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 12)
	EXPAND(Z19, Z20, Z28, Z17)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 16)
	EXPAND(Z20, Z21, Z29, Z18)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 20)
	EXPAND(Z21, Z22, Z30, Z19)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 24)
	EXPAND(Z22, Z23, Z31, Z20)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 28)
	EXPAND(Z23, Z24, Z16, Z21)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, 32)
	EXPAND(Z24, Z25, Z17, Z22)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, 36)
	EXPAND(Z25, Z26, Z18, Z23)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, 40)
	EXPAND(Z26, Z27, Z19, Z24)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, 44)
	EXPAND(Z27, Z28, Z20, Z25)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, 48)
	EXPAND(Z28, Z29, Z21, Z26)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, 52)
	EXPAND(Z29, Z30, Z22, Z27)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, 56)
	EXPAND(Z30, Z31, Z23, Z28)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, 60)
	EXPAND(Z31, Z16, Z24, Z29)
	ADDQ  $64, CX
	DECQ  R9
	JNZ   rounds

	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z16, 0)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z17, 4)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z18, 8)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z19, 12)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z20, 16)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z21, 20)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z22, 24)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z23, 28)
	ROUND(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z24, 32)
	ROUND(Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z25, 36)
	ROUND(Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z5, Z26, 40)
	ROUND(Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z4, Z27, 44)
	ROUND(Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z3, Z28, 48)
	ROUND(Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z2, Z29, 52)
	ROUND(Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z1, Z30, 56)
	ROUND(Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z0, Z31, 60)

	ADD(0, Z0)
	ADD(1, Z1)
	ADD(2, Z2)
	ADD(3, Z3)
	ADD(4, Z4)
	ADD(5, Z5)
	ADD(6, Z6)
	ADD(7, Z7)
	ADDQ  $64, DX
	DECQ  BX
	JMP   block

done:
	VZEROUPPER
	RET
