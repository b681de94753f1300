# Turns seal.json into a shell's assignments. What is missing or of another kind is an error.
def number(name): .[name] | if type == "number" and . == floor and . >= 4096 then . else error("\(name) is wrong") end;

"root_hash=" + (.root_hash | if type == "string" and test("\\A[0-9a-f]{64}\\z") then . else error("root_hash is wrong") end),
"data_bytes=\(number("data_bytes"))",
"image_bytes=\(number("image_bytes"))"
