/* copse: arguments -> command. */
int main(void)
{
    return 64;
}
