//! Whether a large random number is prime.

use num_bigint::BigUint;

/// Divisors below this are tried first: they leave one in fifty.
const SMALL: u32 = 2000;
/// Rounds of Miller and Rabin: more than twenty would find nothing in a random number.
const ROUNDS: usize = 20;

/// Whether this odd number above [`SMALL`] is prime; an even one is not.
pub(super) fn is_prime(number: &BigUint) -> bool {
    let small = || {
        (2..SMALL).filter(|it| {
            (2..*it)
                .take_while(|by| by * by <= *it)
                .all(|by| it % by != 0)
        })
    };
    if small().any(|divisor| number % divisor == BigUint::ZERO) {
        return false;
    }
    let one = BigUint::from(1_u8);
    let last = number - &one;
    let twos = last.trailing_zeros().unwrap_or_default();
    let odd = &last >> twos;
    small().take(ROUNDS).all(|base| {
        let mut power = BigUint::from(base).modpow(&odd, number);
        if power == one || power == last {
            return true;
        }
        (1..twos).any(|_| {
            power = &power * &power % number;
            power == last
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mersenne_prime_is_one_and_products_are_none() {
        let prime = (BigUint::from(1_u8) << 521) - 1_u8;
        let other = (BigUint::from(1_u8) << 607) - 1_u8;

        assert!(is_prime(&prime));
        assert!(is_prime(&other));
        assert!(!is_prime(&(&prime * &other)));
        assert!(!is_prime(&(&prime * 3_u8)));
        assert!(!is_prime(&(&prime + 1_u8)));
        // A strong pseudoprime to the first nine prime bases.
        assert!(!is_prime(&BigUint::from(3_825_123_056_546_413_051_u64)));
    }
}
