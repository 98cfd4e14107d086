;; Two functions of the JPEG decoder by SIMD, in place of those that mozjpeg was published with; `npm run gen` puts them there.
;; They make the same bytes for every input, damaged files included: all arithmetic wraps at 32 bits as that of the published
;; ones does. Sources: libjpeg's `jidctint.c` (after Loeffler, Ligtenberg and Moschytz, 1989) and `jdcolor.c`; offsets into
;; libjpeg's structures as the published binary has them.
;;
;; A body is taken over alone: it may use the memory, and of globals only the first, the stack pointer. It calls nothing.
(module
  (import "env" "memory" (memory 1))
  (global $stack (import "env" "stack") (mut i32))

  ;; jpeg_idct_islow(cinfo, compptr, coef_block, output_buf, output_col): 8 x 8 coefficients, 16 bits each, to as many samples
  ;; in eight rows. Twice the same transform: of columns, then of rows, four at once.
  (func (export "idct") (param $cinfo i32) (param $component i32) (param $coefs i32) (param $rows i32) (param $column i32)
    (local $factors i32) (local $work i32) (local $turn i32) (local $half v128) (local $flat v128) (local $first v128)
    (local $0 v128) (local $1 v128) (local $2 v128) (local $3 v128)
    (local $4 v128) (local $5 v128) (local $6 v128) (local $7 v128)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local $z1 v128) (local $z2 v128) (local $z3 v128) (local $z4 v128)
    (local.set $factors (i32.load offset=80 (local.get $component)))

    ;; Columns that have nothing below their first coefficient; if the first row has nothing more either, all samples are alike.
    (local.set $flat
      (i16x8.eq
        (v128.const i16x8 0 0 0 0 0 0 0 0)
        (v128.or
          (v128.or
            (v128.or (v128.load offset=16 (local.get $coefs)) (v128.load offset=32 (local.get $coefs)))
            (v128.or (v128.load offset=48 (local.get $coefs)) (v128.load offset=64 (local.get $coefs))))
          (v128.or
            (v128.or (v128.load offset=80 (local.get $coefs)) (v128.load offset=96 (local.get $coefs)))
            (v128.load offset=112 (local.get $coefs))))))
    (if
      (i32.and
        (i16x8.all_true (local.get $flat))
        (i32.eqz
          (v128.any_true
            (v128.and (v128.const i16x8 0 -1 -1 -1 -1 -1 -1 -1) (v128.load (local.get $coefs))))))
      (then
        (local.set $0
          (i32x4.splat
            (i32.shr_s
              (i32.shl
                (i32.add
                  (i32.shl (i32.mul (i32.load16_s (local.get $coefs)) (i32.load (local.get $factors))) (i32.const 2))
                  (i32.const 16))
                (i32.const 17))
              (i32.const 22))))
        (local.set $0 (i16x8.narrow_i32x4_s (local.get $0) (local.get $0)))
        (local.set $0 (i16x8.add (local.get $0) (i16x8.splat (i32.const 128))))
        (local.set $0 (i8x16.narrow_i16x8_u (local.get $0) (local.get $0)))
        (local.set $turn (i32.const 8))
        (loop $row
          (v128.store64_lane 0 (i32.add (i32.load (local.get $rows)) (local.get $column)) (local.get $0))
          (local.set $rows (i32.add (local.get $rows) (i32.const 4)))
          (br_if $row (local.tee $turn (i32.sub (local.get $turn) (i32.const 1)))))
        (return)))

    ;; 8 x 8 numbers of 32 bits, beyond the end of the stack: nothing is called from here.
    (local.set $work (i32.sub (global.get $stack) (i32.const 256)))
    (local.set $half (v128.const i32x4 1024 1024 1024 1024))
    (loop $next
      (if (i32.lt_u (local.get $turn) (i32.const 2))
        (then
          ;; four columns
          (local.set $0 (i32x4.mul (v128.load16x4_s offset=0 (local.get $coefs)) (v128.load offset=0 (local.get $factors))))
          (local.set $1 (i32x4.mul (v128.load16x4_s offset=16 (local.get $coefs)) (v128.load offset=32 (local.get $factors))))
          (local.set $2 (i32x4.mul (v128.load16x4_s offset=32 (local.get $coefs)) (v128.load offset=64 (local.get $factors))))
          (local.set $3 (i32x4.mul (v128.load16x4_s offset=48 (local.get $coefs)) (v128.load offset=96 (local.get $factors))))
          (local.set $4 (i32x4.mul (v128.load16x4_s offset=64 (local.get $coefs)) (v128.load offset=128 (local.get $factors))))
          (local.set $5 (i32x4.mul (v128.load16x4_s offset=80 (local.get $coefs)) (v128.load offset=160 (local.get $factors))))
          (local.set $6 (i32x4.mul (v128.load16x4_s offset=96 (local.get $coefs)) (v128.load offset=192 (local.get $factors))))
          (local.set $7 (i32x4.mul (v128.load16x4_s offset=112 (local.get $coefs)) (v128.load offset=224 (local.get $factors))))
          (local.set $first (i32x4.shl (local.get $0) (i32.const 2)))
          (local.set $coefs (i32.add (local.get $coefs) (i32.const 8)))
          (local.set $factors (i32.add (local.get $factors) (i32.const 16))))
        (else
          ;; four rows, transposed
          (local.set $a (v128.load offset=0 (local.get $work)))
          (local.set $b (v128.load offset=32 (local.get $work)))
          (local.set $c (v128.load offset=64 (local.get $work)))
          (local.set $d (v128.load offset=96 (local.get $work)))
          (local.set $z1 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
          (local.set $z2 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a) (local.get $b)))
          (local.set $z3 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $c) (local.get $d)))
          (local.set $z4 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $c) (local.get $d)))
          (local.set $0 (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $z1) (local.get $z3)))
          (local.set $1 (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $z1) (local.get $z3)))
          (local.set $2 (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $z2) (local.get $z4)))
          (local.set $3 (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $z2) (local.get $z4)))
          (local.set $a (v128.load offset=16 (local.get $work)))
          (local.set $b (v128.load offset=48 (local.get $work)))
          (local.set $c (v128.load offset=80 (local.get $work)))
          (local.set $d (v128.load offset=112 (local.get $work)))
          (local.set $z1 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
          (local.set $z2 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $a) (local.get $b)))
          (local.set $z3 (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $c) (local.get $d)))
          (local.set $z4 (i8x16.shuffle 8 9 10 11 24 25 26 27 12 13 14 15 28 29 30 31 (local.get $c) (local.get $d)))
          (local.set $4 (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $z1) (local.get $z3)))
          (local.set $5 (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $z1) (local.get $z3)))
          (local.set $6 (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $z2) (local.get $z4)))
          (local.set $7 (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $z2) (local.get $z4)))))

      ;; Even part: a, b, c, d are tmp10 to tmp13. Constants have 13 bits behind the point.
      (local.set $z1 (i32x4.mul (i32x4.add (local.get $2) (local.get $6)) (i32x4.splat (i32.const 4433))))
      (local.set $z2 (i32x4.add (local.get $z1) (i32x4.mul (local.get $6) (i32x4.splat (i32.const -15137)))))
      (local.set $z3 (i32x4.add (local.get $z1) (i32x4.mul (local.get $2) (i32x4.splat (i32.const 6270)))))
      (local.set $z1 (i32x4.add (local.get $half) (i32x4.shl (i32x4.add (local.get $0) (local.get $4)) (i32.const 13))))
      (local.set $z4 (i32x4.add (local.get $half) (i32x4.shl (i32x4.sub (local.get $0) (local.get $4)) (i32.const 13))))
      (local.set $a (i32x4.add (local.get $z1) (local.get $z3)))
      (local.set $d (i32x4.sub (local.get $z1) (local.get $z3)))
      (local.set $b (i32x4.add (local.get $z4) (local.get $z2)))
      (local.set $c (i32x4.sub (local.get $z4) (local.get $z2)))

      ;; Odd part: 7, 5, 3, 1 become tmp0 to tmp3.
      (local.set $z1 (i32x4.mul (i32x4.add (local.get $7) (local.get $1)) (i32x4.splat (i32.const -7373))))
      (local.set $z2 (i32x4.mul (i32x4.add (local.get $5) (local.get $3)) (i32x4.splat (i32.const -20995))))
      (local.set $z3 (i32x4.add (local.get $7) (local.get $3)))
      (local.set $z4 (i32x4.add (local.get $5) (local.get $1)))
      (local.set $0 (i32x4.mul (i32x4.add (local.get $z3) (local.get $z4)) (i32x4.splat (i32.const 9633))))
      (local.set $z3 (i32x4.add (local.get $0) (i32x4.mul (local.get $z3) (i32x4.splat (i32.const -16069)))))
      (local.set $z4 (i32x4.add (local.get $0) (i32x4.mul (local.get $z4) (i32x4.splat (i32.const -3196)))))
      (local.set $7
        (i32x4.add
          (i32x4.mul (local.get $7) (i32x4.splat (i32.const 2446)))
          (i32x4.add (local.get $z1) (local.get $z3))))
      (local.set $5
        (i32x4.add
          (i32x4.mul (local.get $5) (i32x4.splat (i32.const 16819)))
          (i32x4.add (local.get $z2) (local.get $z4))))
      (local.set $3
        (i32x4.add
          (i32x4.mul (local.get $3) (i32x4.splat (i32.const 25172)))
          (i32x4.add (local.get $z2) (local.get $z3))))
      (local.set $1
        (i32x4.add
          (i32x4.mul (local.get $1) (i32x4.splat (i32.const 12299)))
          (i32x4.add (local.get $z1) (local.get $z4))))

      ;; Both together; `half` is in the even part already.
      (local.set $0 (i32x4.add (local.get $a) (local.get $1)))
      (local.set $z4 (i32x4.sub (local.get $a) (local.get $1)))
      (local.set $1 (i32x4.add (local.get $b) (local.get $3)))
      (local.set $6 (i32x4.sub (local.get $b) (local.get $3)))
      (local.set $2 (i32x4.add (local.get $c) (local.get $5)))
      (local.set $5 (i32x4.sub (local.get $c) (local.get $5)))
      (local.set $3 (i32x4.add (local.get $d) (local.get $7)))
      (local.set $4 (i32x4.sub (local.get $d) (local.get $7)))

      (if (i32.lt_u (local.get $turn) (i32.const 2))
        (then
          ;; A flat column is its first coefficient, times 4; without an overflow that is what was computed.
          (local.set $a (i32x4.extend_low_i16x8_s (local.get $flat)))
          (local.set $flat (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15 (local.get $flat) (local.get $flat)))
          (v128.store offset=0
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $0) (i32.const 11)) (local.get $a)))
          (v128.store offset=32
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $1) (i32.const 11)) (local.get $a)))
          (v128.store offset=64
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $2) (i32.const 11)) (local.get $a)))
          (v128.store offset=96
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $3) (i32.const 11)) (local.get $a)))
          (v128.store offset=128
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $4) (i32.const 11)) (local.get $a)))
          (v128.store offset=160
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $5) (i32.const 11)) (local.get $a)))
          (v128.store offset=192
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $6) (i32.const 11)) (local.get $a)))
          (v128.store offset=224
            (local.get $work)
            (v128.bitselect (local.get $first) (i32x4.shr_s (local.get $z4) (i32.const 11)) (local.get $a)))
          (local.set $work (i32.add (local.get $work) (i32.const 16)))
          (if (local.get $turn)
            (then
              (local.set $work (i32.sub (local.get $work) (i32.const 32)))
              (local.set $half (v128.const i32x4 131072 131072 131072 131072)))))
        (else
          ;; Of what is left after 18 bits the published function looks at 10: a sample, less 128.
          (local.set $0
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (i32x4.shl (local.get $0) (i32.const 4)) (i32.const 22))
              (i32x4.shr_s (i32x4.shl (local.get $1) (i32.const 4)) (i32.const 22))))
          (local.set $2
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (i32x4.shl (local.get $2) (i32.const 4)) (i32.const 22))
              (i32x4.shr_s (i32x4.shl (local.get $3) (i32.const 4)) (i32.const 22))))
          (local.set $4
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (i32x4.shl (local.get $4) (i32.const 4)) (i32.const 22))
              (i32x4.shr_s (i32x4.shl (local.get $5) (i32.const 4)) (i32.const 22))))
          (local.set $6
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (i32x4.shl (local.get $6) (i32.const 4)) (i32.const 22))
              (i32x4.shr_s (i32x4.shl (local.get $z4) (i32.const 4)) (i32.const 22))))
          (local.set $a (i16x8.splat (i32.const 128)))
          ;; columns 0 to 3 of four rows, column by column; then 4 to 7
          (local.set $0
            (i8x16.narrow_i16x8_u
              (i16x8.add (local.get $0) (local.get $a))
              (i16x8.add (local.get $2) (local.get $a))))
          (local.set $4
            (i8x16.narrow_i16x8_u
              (i16x8.add (local.get $4) (local.get $a))
              (i16x8.add (local.get $6) (local.get $a))))
          (local.set $a
            (i8x16.shuffle 0 4 8 12 16 20 24 28 1 5 9 13 17 21 25 29 (local.get $0) (local.get $4)))
          (local.set $b
            (i8x16.shuffle 2 6 10 14 18 22 26 30 3 7 11 15 19 23 27 31 (local.get $0) (local.get $4)))
          (v128.store64_lane 0 (i32.add (i32.load offset=0 (local.get $rows)) (local.get $column)) (local.get $a))
          (v128.store64_lane 1 (i32.add (i32.load offset=4 (local.get $rows)) (local.get $column)) (local.get $a))
          (v128.store64_lane 0 (i32.add (i32.load offset=8 (local.get $rows)) (local.get $column)) (local.get $b))
          (v128.store64_lane 1 (i32.add (i32.load offset=12 (local.get $rows)) (local.get $column)) (local.get $b))
          (local.set $rows (i32.add (local.get $rows) (i32.const 16)))
          (local.set $work (i32.add (local.get $work) (i32.const 128)))))
      (br_if $next
        (i32.lt_u
          (local.tee $turn (i32.add (local.get $turn) (i32.const 1)))
          (i32.const 4)))))

  ;; ycc_rgb_convert(cinfo, input_buf, input_row, output_buf, num_rows): rows of luma and the two chromas to rows of red, green,
  ;; blue and alpha, which is all that the decoder is asked for. Factors have 16 bits behind the point; those that do not fit into
  ;; 16 bits are taken apart: 1.402 = 1 + 26345 / 65536, 1.772 = 2 - 14942 / 65536, 0.71414 = 1 - 18734 / 65536.
  (func (export "toRgba") (param $cinfo i32) (param $input i32) (param $row i32) (param $output i32) (param $count i32)
    (local $y i32) (local $cb i32) (local $cr i32) (local $out i32) (local $left i32)
    (local $luma v128) (local $blue v128) (local $red v128) (local $green v128) (local $half v128)
    (local $u i32) (local $v i32)
    ;; RGBX and RGBA of libjpeg-turbo
    (if
      (i32.and
        (i32.ne (i32.load offset=44 (local.get $cinfo)) (i32.const 7))
        (i32.ne (i32.load offset=44 (local.get $cinfo)) (i32.const 12)))
      (then (unreachable)))
    (local.set $half (v128.const i32x4 32768 32768 32768 32768))
    (local.set $row (i32.shl (local.get $row) (i32.const 2)))
    (block $done
      (loop $nextRow
        (br_if $done (i32.le_s (local.get $count) (i32.const 0)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (local.set $y (i32.load (i32.add (i32.load offset=0 (local.get $input)) (local.get $row))))
        (local.set $cb (i32.load (i32.add (i32.load offset=4 (local.get $input)) (local.get $row))))
        (local.set $cr (i32.load (i32.add (i32.load offset=8 (local.get $input)) (local.get $row))))
        (local.set $row (i32.add (local.get $row) (i32.const 4)))
        (local.set $out (i32.load (local.get $output)))
        (local.set $output (i32.add (local.get $output) (i32.const 4)))
        (local.set $left (i32.load offset=112 (local.get $cinfo)))

        (block $few
          (loop $eight
            (br_if $few (i32.lt_u (local.get $left) (i32.const 8)))
            (local.set $luma (v128.load8x8_u (local.get $y)))
            (local.set $blue (i16x8.sub (v128.load8x8_u (local.get $cb)) (i16x8.splat (i32.const 128))))
            (local.set $red (i16x8.sub (v128.load8x8_u (local.get $cr)) (i16x8.splat (i32.const 128))))
            (local.set $green
              (i16x8.sub
                (i16x8.narrow_i32x4_s
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.dot_i16x8_s
                        (i8x16.shuffle 0 1 16 17 2 3 18 19 4 5 20 21 6 7 22 23 (local.get $blue) (local.get $red))
                        (v128.const i16x8 -22554 18734 -22554 18734 -22554 18734 -22554 18734)))
                    (i32.const 16))
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.dot_i16x8_s
                        (i8x16.shuffle 8 9 24 25 10 11 26 27 12 13 28 29 14 15 30 31 (local.get $blue) (local.get $red))
                        (v128.const i16x8 -22554 18734 -22554 18734 -22554 18734 -22554 18734)))
                    (i32.const 16)))
                (local.get $red)))
            (local.set $red
              (i16x8.add
                (local.get $red)
                (i16x8.narrow_i32x4_s
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.extmul_low_i16x8_s (local.get $red) (i16x8.splat (i32.const 26345))))
                    (i32.const 16))
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.extmul_high_i16x8_s (local.get $red) (i16x8.splat (i32.const 26345))))
                    (i32.const 16)))))
            (local.set $blue
              (i16x8.add
                (i16x8.shl (local.get $blue) (i32.const 1))
                (i16x8.narrow_i32x4_s
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.extmul_low_i16x8_s (local.get $blue) (i16x8.splat (i32.const -14942))))
                    (i32.const 16))
                  (i32x4.shr_s
                    (i32x4.add
                      (local.get $half)
                      (i32x4.extmul_high_i16x8_s (local.get $blue) (i16x8.splat (i32.const -14942))))
                    (i32.const 16)))))
            ;; eight of red, eight of green; eight of blue, eight of alpha
            (local.set $red
              (i8x16.narrow_i16x8_u
                (i16x8.add (local.get $luma) (local.get $red))
                (i16x8.add (local.get $luma) (local.get $green))))
            (local.set $blue
              (i8x16.narrow_i16x8_u
                (i16x8.add (local.get $luma) (local.get $blue))
                (i16x8.splat (i32.const 255))))
            (v128.store
              (local.get $out)
              (i8x16.shuffle 0 8 16 24 1 9 17 25 2 10 18 26 3 11 19 27 (local.get $red) (local.get $blue)))
            (v128.store offset=16
              (local.get $out)
              (i8x16.shuffle 4 12 20 28 5 13 21 29 6 14 22 30 7 15 23 31 (local.get $red) (local.get $blue)))
            (local.set $y (i32.add (local.get $y) (i32.const 8)))
            (local.set $cb (i32.add (local.get $cb) (i32.const 8)))
            (local.set $cr (i32.add (local.get $cr) (i32.const 8)))
            (local.set $out (i32.add (local.get $out) (i32.const 32)))
            (local.set $left (i32.sub (local.get $left) (i32.const 8)))
            (br $eight)))

        ;; the last seven at most, each as four numbers that are narrowed to bytes
        (block $none
          (loop $one
            (br_if $none (i32.eqz (local.get $left)))
            (local.set $u (i32.sub (i32.load8_u (local.get $cb)) (i32.const 128)))
            (local.set $v (i32.sub (i32.load8_u (local.get $cr)) (i32.const 128)))
            (local.set $red (i32x4.splat (i32.load8_u (local.get $y))))
            (local.set $red
              (i32x4.add
                (local.get $red)
                (i32x4.replace_lane 3
                  (i32x4.replace_lane 2
                    (i32x4.replace_lane 1
                      (i32x4.splat
                        (i32.shr_s
                          (i32.add (i32.mul (local.get $v) (i32.const 91881)) (i32.const 32768))
                          (i32.const 16)))
                      (i32.shr_s
                        (i32.add
                          (i32.add
                            (i32.mul (local.get $u) (i32.const -22554))
                            (i32.mul (local.get $v) (i32.const -46802)))
                          (i32.const 32768))
                        (i32.const 16)))
                    (i32.shr_s
                      (i32.add (i32.mul (local.get $u) (i32.const 116130)) (i32.const 32768))
                      (i32.const 16)))
                  (i32.const 255))))
            (local.set $red (i16x8.narrow_i32x4_s (local.get $red) (local.get $red)))
            (v128.store32_lane 0 (local.get $out) (i8x16.narrow_i16x8_u (local.get $red) (local.get $red)))
            (local.set $y (i32.add (local.get $y) (i32.const 1)))
            (local.set $cb (i32.add (local.get $cb) (i32.const 1)))
            (local.set $cr (i32.add (local.get $cr) (i32.const 1)))
            (local.set $out (i32.add (local.get $out) (i32.const 4)))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br $one)))
        (br $nextRow)))))
