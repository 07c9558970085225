; What a small compiler would make of a handful of functions: a loop, a recursive function, a
; variable, a table of constants, and a call of a function in Rust.

@counter = global i64 0
@primes = internal constant [8 x i32] [i32 2, i32 3, i32 5, i32 7, i32 11, i32 13, i32 17, i32 19]

declare i64 @from_rust(i64)

; 0 + 1 + ... + n, by adding up.
define i64 @sum(i64 %n) uwtable {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %total = phi i64 [ 0, %entry ], [ %more, %loop ]
  %more = add i64 %total, %i
  %next = add i64 %i, 1
  %again = icmp ule i64 %next, %n
  br i1 %again, label %loop, label %done
done:
  ret i64 %more
}

define i64 @fibonacci(i64 %n) uwtable {
entry:
  %small = icmp ult i64 %n, 2
  br i1 %small, label %done, label %recurse
recurse:
  %n1 = sub i64 %n, 1
  %n2 = sub i64 %n, 2
  %f1 = call i64 @fibonacci(i64 %n1)
  %f2 = call i64 @fibonacci(i64 %n2)
  %sum = add i64 %f1, %f2
  ret i64 %sum
done:
  ret i64 %n
}

; How often it was called before.
define i64 @count() uwtable {
  %before = load i64, ptr @counter
  %after = add i64 %before, 1
  store i64 %after, ptr @counter
  ret i64 %before
}

define i32 @prime(i64 %i) uwtable {
  %at = getelementptr [8 x i32], ptr @primes, i64 0, i64 %i
  %prime = load i32, ptr %at
  ret i32 %prime
}

; Not a tail call, so that its frame is on the stack.
define i64 @call_out(i64 %n) uwtable {
  %answer = call i64 @from_rust(i64 %n)
  %more = add i64 %answer, 1
  ret i64 %more
}
