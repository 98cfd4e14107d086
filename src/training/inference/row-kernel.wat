;; Rows of pixels by SIMD, four colours at a time; `row-kernel.ts` calls it and says what the rows are.
;;
;; Sizes in bytes. A pixel is four: red, green, blue, alpha. A value is a float32; a row of values holds four for each pixel,
;; the last one unused. Every address is a multiple of 16.
(module
  ;; Grows as needed; a row of the widest image to the largest input, with the widest filter, takes 2.4 MB of the 4.
  (memory (export "memory") 1 64)

  ;; To whole numbers 0..255, halves up: a sum of float32 weights may lie a little below the half that it stands for.
  (func $whole (param $value v128) (result v128)
    (f32x4.min
      (v128.const f32x4 255 255 255 255)
      (f32x4.max
        (v128.const f32x4 0 0 0 0)
        (f32x4.floor (f32x4.add (local.get $value) (v128.const f32x4 0.5001 0.5001 0.5001 0.5001))))))

  ;; Resizes one row: value i of `out` = sum of weights * pixels, these beginning with `first[i]` of the row, and the weights
  ;; ending with the one before `end[i]`, where those of the next value begin.
  (func (export "resizeRow")
    (param $pixels i32) (param $first i32) (param $end i32) (param $weights i32) (param $count i32) (param $rounded i32)
    (param $out i32)
    (local $sum v128) (local $pixel i32) (local $weight i32) (local $stop i32) (local $outEnd i32)
    (local.set $weight (local.get $weights))
    (local.set $outEnd (i32.add (local.get $out) (i32.shl (local.get $count) (i32.const 4))))
    (loop $next
      (local.set $sum (v128.const f32x4 0 0 0 0))
      (local.set $pixel (i32.add (local.get $pixels) (i32.shl (i32.load (local.get $first)) (i32.const 2))))
      (local.set $stop (i32.add (local.get $weights) (i32.shl (i32.load (local.get $end)) (i32.const 2))))
      (loop $add
        (local.set $sum
          (f32x4.add
            (local.get $sum)
            (f32x4.mul
              (v128.load32_splat (local.get $weight))
              (f32x4.convert_i32x4_u
                (i32x4.extend_low_i16x8_u (i16x8.extend_low_i8x16_u (v128.load32_zero (local.get $pixel))))))))
        (local.set $pixel (i32.add (local.get $pixel) (i32.const 4)))
        (br_if $add
          (i32.lt_u
            (local.tee $weight (i32.add (local.get $weight) (i32.const 4)))
            (local.get $stop))))
      (if (local.get $rounded) (then (local.set $sum (call $whole (local.get $sum)))))
      (v128.store (local.get $out) (local.get $sum))
      (local.set $first (i32.add (local.get $first) (i32.const 4)))
      (local.set $end (i32.add (local.get $end) (i32.const 4)))
      (br_if $next
        (i32.lt_u
          (local.tee $out (i32.add (local.get $out) (i32.const 16)))
          (local.get $outEnd)))))

  ;; sum += weight * row
  (func (export "addRow") (param $sum i32) (param $row i32) (param $weight f32) (param $count i32)
    (local $end i32)
    (local.set $end (i32.add (local.get $row) (i32.shl (local.get $count) (i32.const 4))))
    (loop $next
      (v128.store
        (local.get $sum)
        (f32x4.add
          (v128.load (local.get $sum))
          (f32x4.mul (f32x4.splat (local.get $weight)) (v128.load (local.get $row)))))
      (local.set $sum (i32.add (local.get $sum) (i32.const 16)))
      (br_if $next
        (i32.lt_u
          (local.tee $row (i32.add (local.get $row) (i32.const 16)))
          (local.get $end)))))

  ;; Takes a row apart: `count` values * scale + shift of red, then of green and of blue, each in `plane` bytes of `out`.
  ;; Works on four pixels at once: up to three behind the row are read, and as many values written.
  (func (export "planes")
    (param $row i32) (param $count i32) (param $rounded i32) (param $out i32) (param $plane i32)
    (param $redScale f32) (param $greenScale f32) (param $blueScale f32)
    (param $redShift f32) (param $greenShift f32) (param $blueShift f32)
    (local $a v128) (local $b v128) (local $c v128) (local $d v128) (local $ab v128) (local $cd v128)
    (local $end i32) (local $green i32) (local $blue i32)
    (local.set $green (i32.add (local.get $out) (local.get $plane)))
    (local.set $blue (i32.add (local.get $green) (local.get $plane)))
    (local.set $end (i32.add (local.get $out) (i32.shl (local.get $count) (i32.const 2))))
    (loop $next
      (local.set $a (v128.load (local.get $row)))
      (local.set $b (v128.load offset=16 (local.get $row)))
      (local.set $c (v128.load offset=32 (local.get $row)))
      (local.set $d (v128.load offset=48 (local.get $row)))
      (if (local.get $rounded)
        (then
          (local.set $a (call $whole (local.get $a)))
          (local.set $b (call $whole (local.get $b)))
          (local.set $c (call $whole (local.get $c)))
          (local.set $d (call $whole (local.get $d)))))
      ;; red a, red b, green a, green b
      (local.set $ab
        (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $a) (local.get $b)))
      (local.set $cd
        (i8x16.shuffle 0 1 2 3 16 17 18 19 4 5 6 7 20 21 22 23 (local.get $c) (local.get $d)))
      (v128.store
        (local.get $out)
        (f32x4.add
          (f32x4.splat (local.get $redShift))
          (f32x4.mul
            (f32x4.splat (local.get $redScale))
            (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $ab) (local.get $cd)))))
      (v128.store
        (local.get $green)
        (f32x4.add
          (f32x4.splat (local.get $greenShift))
          (f32x4.mul
            (f32x4.splat (local.get $greenScale))
            (i8x16.shuffle 8 9 10 11 12 13 14 15 24 25 26 27 28 29 30 31 (local.get $ab) (local.get $cd)))))
      ;; blue a, blue b
      (local.set $ab
        (i8x16.shuffle 8 9 10 11 24 25 26 27 0 0 0 0 0 0 0 0 (local.get $a) (local.get $b)))
      (local.set $cd
        (i8x16.shuffle 8 9 10 11 24 25 26 27 0 0 0 0 0 0 0 0 (local.get $c) (local.get $d)))
      (v128.store
        (local.get $blue)
        (f32x4.add
          (f32x4.splat (local.get $blueShift))
          (f32x4.mul
            (f32x4.splat (local.get $blueScale))
            (i8x16.shuffle 0 1 2 3 4 5 6 7 16 17 18 19 20 21 22 23 (local.get $ab) (local.get $cd)))))
      (local.set $row (i32.add (local.get $row) (i32.const 64)))
      (local.set $green (i32.add (local.get $green) (i32.const 16)))
      (local.set $blue (i32.add (local.get $blue) (i32.const 16)))
      (br_if $next
        (i32.lt_u
          (local.tee $out (i32.add (local.get $out) (i32.const 16)))
          (local.get $end))))))
