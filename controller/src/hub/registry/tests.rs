use super::super::remembered::MAX_REMEMBERED;
use super::*;

#[test]
fn agents_that_come_under_ever_new_names_do_not_fill_the_memory() {
    let registry = Registry::default();
    let node = |number: usize| NodeName::from(format!("n{number}"));
    let (orders, _stream) = mpsc::channel(1);
    for number in 0..=MAX_REMEMBERED {
        registry.refuse(node(number), "9".to_owned(), "too old".to_owned());
        let there = node(number + MAX_REMEMBERED + 1);
        let generation = registry.attach(&there, "9".to_owned(), false, orders.clone()).unwrap();
        registry.detach(&there, generation, "it went");
    }
    let refused = registry.refused();
    assert_eq!(refused.len(), MAX_REMEMBERED);
    let is_refused = |number| refused.iter().any(|agent| agent.node == node(number));
    assert!(!is_refused(0) && is_refused(1), "the oldest is forgotten");
    assert!(is_refused(MAX_REMEMBERED), "the newest is known");
    let words = |number| registry.last_words(&node(number + MAX_REMEMBERED + 1));
    assert_eq!(words(0), None);
    assert_eq!([1, MAX_REMEMBERED].map(words), [Some("it went".to_owned()), Some("it went".to_owned())]);
}
