//! Whether numbers of Go's `math/rand` are odd, as Coder builds host keys from that alone.
//!
//! Go's generator adds two of its last 607 numbers. Whether a sum is odd depends on nothing but whether its terms are,
//! so one bit of each number is enough.
//!
//! # Source
//! Go `math/rand/rng.go`.

/// Numbers that are remembered.
const LENGTH: usize = 607;
/// Distance between the two that are added.
const TAP: usize = 273;
/// Numbers that are thrown away while the generator is seeded.
const WARM_UP: usize = 20;
/// Modulus and factor of the generator that makes the first numbers.
const SEED_MODULUS: i64 = i32::MAX as i64;
const SEED_FACTOR: i64 = 48271;
/// Stands for zero, from which that generator would never come away.
const SEED_FOR_ZERO: i64 = 89_482_311;
/// The lowest bit of each number that a seed is mixed with; the first one is the lowest bit of the first word.
const MIXED: [u64; 10] = [
    0x34bd_c15f_e90e_24ee,
    0xe954_04ae_5ce7_3534,
    0xbbd7_f689_a525_6b08,
    0xaeb4_650e_ee31_3691,
    0x6249_d76f_b9ad_f55b,
    0xa4f0_e18d_ea77_bee7,
    0x48d2_2e71_7f55_9c40,
    0x2dd2_484d_b9f7_c5cc,
    0x8ab8_5710_d869_7d7f,
    0x0000_0000_34a0_2fb3,
];

/// A generator with the state of Go's.
pub(super) struct GoRandom {
    is_odd: [bool; LENGTH],
    tap: usize,
    feed: usize,
}

impl GoRandom {
    /// Seeds it as `rand.NewSource` does.
    pub(super) fn new(seed: i64) -> Self {
        let mut next = match seed.rem_euclid(SEED_MODULUS) {
            0 => SEED_FOR_ZERO,
            seed => seed,
        };
        let mut step = || {
            next = next * SEED_FACTOR % SEED_MODULUS;
            next
        };
        for _ in 0..WARM_UP {
            step();
        }
        let is_odd = std::array::from_fn(|at| {
            // Three steps make a number, and the last of them is its end.
            let last = [step(), step(), step()][2];
            let mixed = MIXED[at / 64] >> (at % 64) & 1;
            (last & 1 == 1) != (mixed == 1)
        });
        Self {
            is_odd,
            tap: 0,
            feed: LENGTH - TAP,
        }
    }

    /// Whether the next number is odd.
    pub(super) fn is_odd(&mut self) -> bool {
        let before = |at: usize| at.checked_sub(1).unwrap_or(LENGTH - 1);
        (self.tap, self.feed) = (before(self.tap), before(self.feed));
        let sum = self.is_odd[self.feed] != self.is_odd[self.tap];
        self.is_odd[self.feed] = sum;
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first 64 numbers of Go's `rand.New(rand.NewSource(seed)).Int63()`, odd ones as 1, the first at the left.
    #[test]
    fn numbers_are_odd_where_go_s_are() {
        for (seed, expected) in [
            (0, GO_0),
            (1, GO_1),
            (-261_101_927_900_401_156, GO_NEGATIVE),
        ] {
            let mut random = GoRandom::new(seed);
            let bits = (0..64).fold(0, |bits, _| bits << 1 | u64::from(random.is_odd()));
            assert_eq!(bits, expected, "seed {seed}");
        }
    }

    const GO_0: u64 = 0xa689_e214_6e02_e41d;
    const GO_1: u64 = 0x7853_5b45_fc96_7bc4;
    const GO_NEGATIVE: u64 = 0xb740_5695_d014_e463;
}
