//! A rule of nft's JSON as `nft list ruleset` prints it, near enough to recognize it there.

use serde_json::Value as Json;

/// The text of a rule.
pub(super) fn rule(rule: &Json) -> String {
    let list = rule.get("expr").and_then(Json::as_array);
    let mut words: Vec<String> = list.into_iter().flatten().map(statement).collect();
    if let Some(comment) = rule.get("comment").and_then(Json::as_str) {
        words.push(format!("comment {comment:?}"));
    }
    words.join(" ")
}

fn entry(json: &Json) -> Option<(&str, &Json)> {
    json.as_object()?.iter().next().map(|(name, body)| (name.as_str(), body))
}

fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

fn statement(json: &Json) -> String {
    let Some((name, body)) = entry(json) else { return json.to_string() };
    let part = |key: &str| body.get(key).map(expression).unwrap_or_default();
    match name {
        "match" => match text(body, "op") {
            Some("==" | "in") | None => format!("{} {}", part("left"), part("right")),
            Some(op) => format!("{} {op} {}", part("left"), part("right")),
        },
        "vmap" => format!("{} vmap {}", part("key"), part("data")),
        "jump" | "goto" => format!("{name} {}", text(body, "target").unwrap_or_default()),
        "mangle" => format!("{} set {}", part("key"), part("value")),
        "reject" => match (text(body, "type"), body.get("expr")) {
            (Some(kind), Some(expr)) => format!("reject with {kind} {}", expression(expr)),
            (Some(kind), None) => format!("reject with {kind}"),
            _ => "reject".to_owned(),
        },
        "dnat" | "snat" | "redirect" | "masquerade" => nat(name, body),
        "counter" => "counter".to_owned(),
        "log" => match text(body, "prefix") {
            Some(prefix) => format!("log prefix {prefix:?}"),
            None => "log".to_owned(),
        },
        "limit" => {
            let over = if body.get("inv").and_then(Json::as_bool) == Some(true) { "over " } else { "" };
            let rate = body.get("rate").map(Json::to_string).unwrap_or_default();
            format!("limit rate {over}{rate}/{}", text(body, "per").unwrap_or("second"))
        }
        "ct count" => {
            let over = if body.get("inv").and_then(Json::as_bool) == Some(true) { "over " } else { "" };
            format!("ct count {over}{}", part("val"))
        }
        "xt" => format!(
            "xt {} {:?}",
            text(body, "type").unwrap_or_default(),
            text(body, "name").unwrap_or_default()
        ),
        _ if body.is_null() => name.to_owned(),
        _ => format!("{name} {body}"),
    }
}

fn nat(name: &str, body: &Json) -> String {
    let family = text(body, "family").map(|family| format!(" {family}")).unwrap_or_default();
    let address = body.get("addr").map(expression);
    let port = body.get("port").map(|port| format!(":{}", expression(port))).unwrap_or_default();
    let to = match (&address, port.is_empty()) {
        (None, true) => String::new(),
        (address, _) => format!(" to {}{port}", address.as_deref().unwrap_or_default()),
    };
    let flags = match body.get("flags") {
        Some(Json::String(flag)) => format!(" {flag}"),
        Some(Json::Array(flags)) => {
            format!(" {}", flags.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(","))
        }
        _ => String::new(),
    };
    format!("{name}{family}{to}{flags}")
}

fn list(json: &Json, separator: &str) -> String {
    let parts: Vec<String> = json.as_array().into_iter().flatten().map(expression).collect();
    parts.join(separator)
}

fn expression(json: &Json) -> String {
    match json {
        Json::String(name) => name.clone(),
        Json::Array(pair) => match pair.as_slice() {
            [key, data] if data.is_object() => format!("{} : {}", expression(key), statement(data)),
            _ => list(json, ","),
        },
        Json::Object(_) => match entry(json) {
            Some((name, body)) => operation(name, body, json),
            None => json.to_string(),
        },
        _ => json.to_string(),
    }
}

fn operation(name: &str, body: &Json, whole: &Json) -> String {
    let part = |key: &str| body.get(key).map(expression).unwrap_or_default();
    match name {
        "payload" => {
            if let (Some(protocol), Some(field)) = (text(body, "protocol"), text(body, "field")) {
                return format!("{protocol} {field}");
            }
            let raw = |key: &str| body.get(key).map(Json::to_string).unwrap_or_default();
            format!("@{},{},{}", text(body, "base").unwrap_or_default(), raw("offset"), raw("len"))
        }
        "meta" => {
            let key = text(body, "key").unwrap_or_default();
            if matches!(key, "iif" | "oif" | "iifname" | "oifname") {
                key.into()
            } else {
                format!("meta {key}")
            }
        }
        "ct" => match text(body, "dir") {
            Some(direction) => format!("ct {direction} {}", part("key")),
            None => format!("ct {}", part("key")),
        },
        "fib" => {
            let flags = body.get("flags").map(|flags| list(flags, " . ")).unwrap_or_default();
            format!("fib {flags} {}", part("result"))
        }
        "concat" => list(body, " . "),
        "set" => format!("{{ {} }}", list(body, ", ")),
        "prefix" => {
            format!("{}/{}", part("addr"), body.get("len").map(Json::to_string).unwrap_or_default())
        }
        "range" => list(body, "-"),
        "elem" => part("val"),
        "numgen" => format!("numgen {} mod {}", part("mode"), part("mod")),
        "jhash" => format!("jhash {} mod {}", part("expr"), part("mod")),
        "map" => format!("{} map {}", part("key"), part("data")),
        "&" | "|" | "^" | "<<" | ">>" => list(body, &format!(" {name} ")),
        _ => whole.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_nft_prints_them() {
        let cases = [
            (r#"[{"ct count":{"val":2,"inv":true}},{"drop":null}]"#, "ct count over 2 drop"),
            (
                r#"[{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":{"prefix":{"addr":"10.0.0.0","len":8}}}},{"drop":null}]"#,
                "ip daddr 10.0.0.0/8 drop",
            ),
            (
                r#"[{"vmap":{"key":{"numgen":{"mode":"random","mod":2,"offset":0}},"data":{"set":[[0,{"goto":{"target":"a"}}],[1,{"goto":{"target":"b"}}]]}}}]"#,
                "numgen random mod 2 vmap { 0 : goto a, 1 : goto b }",
            ),
            (
                r#"[{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}]"#,
                "ct state established,related accept",
            ),
            (
                r#"[{"mangle":{"key":{"meta":{"key":"mark"}},"value":{"|":[{"meta":{"key":"mark"}},16384]}}}]"#,
                "meta mark set meta mark | 16384",
            ),
            (r#"[{"dnat":{"family":"ip","addr":"10.0.0.1","port":80}}]"#, "dnat ip to 10.0.0.1:80"),
        ];
        for (json, wanted) in cases {
            let expr: Json = serde_json::from_str(json).unwrap();
            assert_eq!(rule(&serde_json::json!({ "expr": expr })), wanted);
        }
    }
}
