# Turns root.json into a shell's assignments, each value quoted. What is missing or of another kind is an error; so is
# what could be taken for an option, or for the end of a line in a file of settings.
def assign(name; value): "\(name)=" + (value | @sh);
def matching(name; pattern): .[name] | if type == "string" and test(pattern) then . else error("\(name) is wrong") end;
def text(names): names as $name | assign($name; matching($name; "\\A"));
def word(names): names as $name | assign($name; matching($name; "\\A[A-Za-z0-9:][A-Za-z0-9.:_-]{0,222}\\z"));
def password(names): names as $name | assign($name; matching($name; "\\A[A-Za-z0-9._~+/=-]{12,128}\\z"));
def number(name): .[name] | if type == "number" and . == floor and . >= 0 then . else error("\(name) is wrong") end;

assign("protocol"; matching("protocol"; "\\A(nbd|iscsi)\\z")),
word("address"),
assign("port"; number("port")),
if .protocol == "nbd" then
    word("export"),
    text("authority", "certificate", "key")
else
    word("target", "user", "target_user"),
    password("password", "target_password"),
    assign("lun"; number("lun"))
end,
if .luks_header == null then
    "header_bytes="
else
    .luks_header | assign("header_bytes"; number("size_bytes")), assign("header_sha256"; matching("sha256"; "\\A[0-9a-f]{64}\\z"))
end
